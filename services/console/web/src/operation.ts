// The operations and the meaning of their statuses: docs/protocol.md 3.

import { Operation, type OperationRecord } from "./gen/lonja/audit/v1/records_pb";

export type Outcome = "ok" | "refused" | "failed";

const FAILED = "failed";
const NOT_REGISTERED = "not registered";
const NOT_CONNECTED = "not connected";

/** What each status of an operation means, from 0 on; the last status is any other failure. */
const STATUSES: Record<Operation, readonly string[]> = {
  [Operation.UNSPECIFIED]: ["ok", FAILED],
  [Operation.REGISTER]: ["ok", "already registered", FAILED],
  [Operation.UNREGISTER]: ["ok", NOT_REGISTERED, FAILED],
  [Operation.CONNECT]: ["ok", NOT_REGISTERED, "already connected", FAILED],
  [Operation.DISCONNECT]: ["ok", NOT_REGISTERED, NOT_CONNECTED, FAILED],
  [Operation.PUBLISH]: ["ok", NOT_REGISTERED, NOT_CONNECTED, "already published", FAILED],
  [Operation.DELETE]: ["ok", NOT_REGISTERED, NOT_CONNECTED, "not published", FAILED],
  [Operation.LIST_USERS]: ["ok", NOT_REGISTERED, NOT_CONNECTED, FAILED],
  [Operation.LIST_CONTENT]: ["ok", NOT_REGISTERED, NOT_CONNECTED, "remote user not registered", FAILED],
  [Operation.GET_FILE]: ["ok", "owner not connected", FAILED],
  [Operation.FREE]: ["ok", NOT_REGISTERED, FAILED],
  [Operation.EXPIRE]: ["ok", FAILED],
};

/** The operations, for people to choose from. */
export const OPERATIONS: readonly Operation[] = [
  Operation.REGISTER,
  Operation.UNREGISTER,
  Operation.CONNECT,
  Operation.DISCONNECT,
  Operation.PUBLISH,
  Operation.DELETE,
  Operation.LIST_USERS,
  Operation.LIST_CONTENT,
  Operation.GET_FILE,
  Operation.FREE,
  Operation.EXPIRE,
];

export function name(operation: Operation): string {
  return Operation[operation] ?? "UNKNOWN";
}

export function outcome(operation: Operation, status: number): Outcome {
  if (status === 0) return "ok";
  const last = (STATUSES[operation] ?? STATUSES[Operation.UNSPECIFIED]).length - 1;
  return status >= last ? "failed" : "refused";
}

export function meaning({ operation, status }: OperationRecord): string {
  return (STATUSES[operation] ?? [])[status] ?? `status ${status}`;
}
