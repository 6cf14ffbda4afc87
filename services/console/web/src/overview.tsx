import { console_ } from "./api";
import { Chart } from "./chart";
import { count } from "./format";
import type { ServiceHealth, WatchOverviewResponse } from "./gen/lonja/console/v1/console_pb";
import { outcome, type Outcome } from "./operation";
import { StreamState } from "./parts";
import { useWatch } from "./watch";

/** The number of past seconds that the charts show. */
const PAST = 300;

type Rates = Record<Outcome, number>;

type Overview = {
  latest: WatchOverviewResponse;
  rates: Map<number, Rates>;
  /** The last second whose counts are complete, of the Unix epoch. */
  end: number;
};

function fold(value: Overview | undefined, latest: WatchOverviewResponse): Overview {
  const rates = new Map(value?.rates);
  for (const { unixSeconds, counts } of latest.seconds) {
    const sums: Rates = { ok: 0, refused: 0, failed: 0 };
    for (const { operation, status, count } of counts) sums[outcome(operation, status)] += Number(count);
    rates.set(Number(unixSeconds), sums);
  }
  const oldest = Math.max(...rates.keys()) - 2 * PAST;
  for (const second of rates.keys()) if (second < oldest) rates.delete(second);
  return { latest, rates, end: Number(latest.countedUntil ?? value?.end ?? 0) };
}

export function OverviewView() {
  const watch = useWatch("overview", (signal) => console_.watchOverview({ pastSeconds: PAST }, { signal }), fold);
  return (
    <>
      <h1>Overview</h1>
      <StreamState watch={watch} what="the overview" />
      {watch.value && <Shown overview={watch.value} isLive={watch.state === "live"} />}
    </>
  );
}

function Shown({ overview, isLive }: { overview: Overview; isLive: boolean }) {
  const { latest, rates, end } = overview;
  const isCounted = latest.countedUntil !== undefined;
  const values = (outcome: Outcome) =>
    Array.from({ length: PAST }, (_, index) => {
      const second = end - PAST + 1 + index;
      return end === 0 || second < Number(latest.countedSince) ? undefined : (rates.get(second)?.[outcome] ?? 0);
    });
  return (
    <div class={isLive ? "" : "stale"}>
      <dl class="tiles">
        <Tile label="Online" value={latest.onlineUsers} href="#/users" />
        <Tile label="Registered" value={latest.registeredUsers} />
        <Tile label="Published files" value={latest.publishedFiles} href="#/files" />
      </dl>
      <section aria-labelledby="operations">
        <h2 id="operations">Operations in the past five minutes</h2>
        <div class="charts">
          <Chart label="Done" class="ok" values={values("ok")} isCounted={isCounted} />
          <Chart label="Refused" class="refused" values={values("refused")} isCounted={isCounted} />
          <Chart label="Failed" class="failed" values={values("failed")} isCounted={isCounted} />
        </div>
      </section>
      <section aria-labelledby="services">
        <h2 id="services">Services</h2>
        <ul class="services">
          {latest.services.map((service) => (
            <Service key={service.name} service={service} />
          ))}
        </ul>
      </section>
    </div>
  );
}

function Tile({ label, value, href }: { label: string; value: bigint | undefined; href?: string }) {
  const shown = value === undefined ? "unknown" : count(value);
  return (
    <div class="tile">
      <dt>{label}</dt>
      <dd>{href ? <a href={href}>{shown}</a> : shown}</dd>
    </div>
  );
}

function Service({ service }: { service: ServiceHealth }) {
  return (
    <li class={service.ready ? "ready" : "not-ready"}>
      <span aria-hidden="true">{service.ready ? "✓" : "✕"}</span> <strong>{service.name}</strong>{" "}
      <span class="quiet">{service.ready ? "ready" : service.problem}</span>
    </li>
  );
}
