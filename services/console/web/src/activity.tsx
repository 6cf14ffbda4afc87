import { useEffect, useState } from "preact/hooks";

import { console_ } from "./api";
import { count, moment } from "./format";
import type { OperationRecord } from "./gen/lonja/audit/v1/records_pb";
import type { WatchOperationsResponse } from "./gen/lonja/console/v1/console_pb";
import { meaning, name, OPERATIONS, outcome } from "./operation";
import { Name, OutcomeMark, SearchField, StreamState } from "./parts";
import { show } from "./route";
import { useWatch } from "./watch";

/** The largest number of rows that the view keeps. */
const ROWS = 200;
/** The largest number of records that one answer of the stream may have. */
const SAMPLE = 50;

type Row = { id: number; record: OperationRecord };
type Activity = { rows: readonly Row[]; next: number; skipped: bigint; jaeger: string };

function fold(value: Activity | undefined, message: WatchOperationsResponse): Activity {
  const { rows, next, skipped } = value ?? { rows: [], next: 0, skipped: 0n };
  const newest = message.records.map((record, index) => ({ id: next + index, record })).reverse();
  return {
    rows: [...newest, ...rows].slice(0, ROWS),
    next: next + newest.length,
    skipped: skipped + message.skipped,
    jaeger: message.jaegerUrl,
  };
}

export function ActivityView({ query }: { query: URLSearchParams }) {
  const username = query.get("user") ?? "";
  const operation = OPERATIONS.find((one) => one === Number(query.get("operation"))) ?? 0;
  const failures = query.has("failures");
  const filter = { username, operation, failures };
  const search = (changed: Record<string, string | number>) =>
    show("activity", { user: username, operation, failures: Number(failures), ...changed });
  const watch = useWatch(
    JSON.stringify(filter),
    (signal) => console_.watchOperations({ filter, newest: ROWS, sampleSize: SAMPLE }, { signal }),
    fold,
  );
  const [held, setHeld] = useState<Activity>();
  useEffect(() => setHeld(undefined), [username, operation, failures]);
  const activity = held ?? watch.value;
  const jaeger = activity?.jaeger ?? "";
  return (
    <>
      <h1>Activity</h1>
      <div class="filters">
        <SearchField
          label="User, by the whole name"
          value={username}
          onSearch={(user) => search({ user })}
        />
        <label class="field">
          <span>Operation</span>
          <select
            value={operation}
            onChange={(event) => search({ operation: Number(event.currentTarget.value) })}
          >
            <option value={0}>Any</option>
            {OPERATIONS.map((operation) => (
              <option key={operation} value={operation}>
                {name(operation)}
              </option>
            ))}
          </select>
        </label>
        <button type="button" aria-pressed={failures} onClick={() => search({ failures: Number(!failures) })}>
          Only failures
        </button>
        <button type="button" aria-pressed={held !== undefined} onClick={() => setHeld(held || !watch.isAnswer ? undefined : watch.value)}>
          Hold
        </button>
      </div>
      <StreamState watch={watch} what="the activity" />
      {activity && (
        <div class={watch.state === "live" || held ? "" : "stale"}>
          {activity.skipped > 0n && (
            <p class="quiet">More happens than can be shown: {count(activity.skipped)} left out.</p>
          )}
          {activity.rows.length === 0 ? (
            watch.isAnswer && (
              <p class="empty">
                {username || operation || failures ? "None of the newest operations match." : "Nothing has happened yet."}
              </p>
            )
          ) : (
            <table class="dense">
              <caption class="for-readers">Operations, newest first</caption>
              <thead>
                <tr>
                  <th scope="col">Time</th>
                  <th scope="col">User</th>
                  <th scope="col">Operation</th>
                  <th scope="col">Of</th>
                  <th scope="col">Outcome</th>
                  <th scope="col">From</th>
                  {jaeger && <th scope="col">Trace</th>}
                </tr>
              </thead>
              <tbody>
                {activity.rows.map(({ id, record }) => (
                  <ActivityRow key={id} record={record} jaeger={jaeger} />
                ))}
              </tbody>
            </table>
          )}
        </div>
      )}
    </>
  );
}

function ActivityRow({ record, jaeger }: { record: OperationRecord; jaeger: string }) {
  return (
    <tr>
      <td data-label="Time">{moment(record.handledAt)}</td>
      <td data-label="User">
        <Name text={record.username} />
      </td>
      <td data-label="Operation">{name(record.operation)}</td>
      <td data-label="Of">
        <Name text={record.subject} />
      </td>
      <td data-label="Outcome">
        <OutcomeMark outcome={outcome(record.operation, record.status)}>{meaning(record)}</OutcomeMark>
      </td>
      <td data-label="From">{record.operator ? `by ${record.operator}` : record.peerAddress}</td>
      {jaeger && (
        <td data-label="Trace">
          {/^[0-9a-f]{32}$/.test(record.traceId) && (
            <a href={`${jaeger}/trace/${record.traceId}`} target="_blank" rel="noreferrer">
              {record.traceId.slice(0, 8)}
            </a>
          )}
        </td>
      )}
    </tr>
  );
}
