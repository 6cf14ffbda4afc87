// The parts that several views use.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { count } from "./format";
import type { Outcome } from "./operation";
import type { Watch } from "./watch";

/** Characters that cannot be seen, or that change the direction of the text around them: the list of
 * crates/wire/src/shown.rs. */
const HIDDEN = /[\p{Cc}\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/u;

/** Shows text that a peer has chosen: never as markup, with a direction of its own, and with the
 * code point of each hidden character. */
export function Name({ text }: { text: string }) {
  if (!HIDDEN.test(text)) return <bdi>{text}</bdi>;
  const parts = text.split(new RegExp(`(${HIDDEN.source})`, "u"));
  return (
    <bdi>
      {parts.map((part) => (HIDDEN.test(part) ? <span class="hidden-sign">{codePoint(part)}</span> : part))}
    </bdi>
  );
}

function codePoint(sign: string): string {
  return `U+${(sign.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** Shows an outcome in words, with a colour and a sign. */
export function OutcomeMark({ outcome, children }: { outcome: Outcome; children: ComponentChildren }) {
  const sign = { ok: "✓", refused: "–", failed: "✕" }[outcome];
  return (
    <span class={`outcome ${outcome}`}>
      <span aria-hidden="true">{sign}</span> {children}
    </span>
  );
}

/** Says that the view's stream is loading, lost or refused; says nothing while it is live. */
export function StreamState({ watch, what }: { watch: Watch<unknown>; what: string }) {
  return (
    <div class="stream-state" role="status">
      {watch.state === "connecting" && watch.value === undefined && <p class="quiet">Loading {what}…</p>}
      {watch.state === "refused" && <p class="lost">{watch.why}</p>}
      {watch.state === "lost" && (
        <p class="lost">
          <strong>Reconnecting.</strong> {watch.value === undefined ? "" : "What you see is not current. "}
          <span class="quiet">{watch.why}</span>
        </p>
      )}
    </div>
  );
}

/** A field that searches for its text once nothing has been typed for a moment. */
export function SearchField(props: { label: string; value: string; onSearch: (text: string) => void }) {
  const [text, setText] = useState(props.value);
  const sent = useRef(props.value);
  useEffect(() => {
    // The text that this field sent comes back as its value. By then more may have been typed: that
    // is kept.
    if (props.value !== sent.current) setText((sent.current = props.value));
  }, [props.value]);
  useEffect(() => {
    if (text === sent.current) return;
    const timer = setTimeout(() => props.onSearch((sent.current = text)), 150);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <label class="field">
      <span>{props.label}</span>
      <input
        type="search"
        value={text}
        maxLength={255}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => setText(event.currentTarget.value)}
      />
    </label>
  );
}

/** Says why a page of a list is empty. */
export function EmptyPage(props: {
  from: number;
  size: number;
  total: bigint;
  most: number;
  /** The text for a list that has no entries at all. */
  none: string;
  address: (from: number) => string;
}) {
  const { from, size, total } = props;
  if (total === 0n) return <p class="empty">{props.none}</p>;
  if (BigInt(from) < total) return <p class="empty">The users on this page have just left.</p>;
  const last = Math.min(Math.floor((Number(total) - 1) / size) * size, props.most);
  return (
    <p class="empty">
      The list ends before this page. <a href={props.address(last)}>Show its last page</a>
    </p>
  );
}

/** Says which entries of a list are shown, with links to the page before and the page after. */
export function Pager(props: {
  from: number;
  /** The number of entries on the page; `undefined` while the page is being asked for. */
  shown: number | undefined;
  size: number;
  total: bigint;
  most: number;
  address: (from: number) => string;
}) {
  const { from, shown, size, total } = props;
  const back = Math.max(0, from - size);
  const hasNext = BigInt(from + size) < total && from + size <= props.most;
  return (
    <nav class="pager" aria-label="Pages">
      <span>
        {shown !== undefined && `${shown === 0 ? "None" : `${count(from + 1)}–${count(from + shown)}`} of ${count(total)}`}
      </span>
      {from > 0 && <a href={props.address(back)}>Newer</a>}
      {hasNext && <a href={props.address(from + size)}>Older</a>}
    </nav>
  );
}

/** The present time in milliseconds since 1970, updated once a second. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}
