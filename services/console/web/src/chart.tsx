// A small chart with a bar for each of the past seconds.

import { count, rate } from "./format";

const WIDTH = 300;
const HEIGHT = 48;

/** Shows a value for each second, oldest first; the value is `undefined` where it is not known. */
export function Chart(props: {
  label: string;
  class: string;
  values: readonly (number | undefined)[];
  /** Whether the last value is of the present; otherwise the present is shown as unknown. */
  isCounted: boolean;
}) {
  const known = props.values.filter((value) => value !== undefined);
  const peak = Math.max(1, ...known);
  const last = known.slice(-5);
  const now = last.reduce((sum, value) => sum + value, 0) / Math.max(1, last.length);
  const present = props.isCounted ? `${rate(now)}/s` : "unknown";
  const summary = `${props.label}: ${present} now, at most ${count(Math.max(0, ...known))}/s`;
  return (
    <figure class={`chart ${props.class}`}>
      <figcaption>
        <span>{props.label}</span> <strong>{present}</strong>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={summary}>
        <path d={bars(props.values, peak)} />
      </svg>
      <p class="quiet">peak {count(Math.max(0, ...known))}/s</p>
    </figure>
  );
}

function bars(values: readonly (number | undefined)[], peak: number): string {
  const step = WIDTH / values.length;
  const bar = (value: number | undefined, index: number) => {
    if (!value) return "";
    const height = Math.max(1, (value / peak) * HEIGHT);
    return `M${(index * step).toFixed(1)} ${HEIGHT}v${(-height).toFixed(1)}h${step.toFixed(2)}V${HEIGHT}z`;
  };
  return values.map(bar).join("");
}
