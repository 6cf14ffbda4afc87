// Numbers and moments as people read them.

import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";

const NUMBER = new Intl.NumberFormat();
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function count(value: number | bigint): string {
  return NUMBER.format(value);
}

/** A rate as a whole number from 10 on, below with two significant digits: `12`, `3.4`, `0.25`. */
export function rate(value: number): string {
  return NUMBER.format(value >= 10 ? Math.round(value) : Number(value.toPrecision(2)));
}

/** A moment as its time of day, with its date if that is not today. */
export function moment(at: Timestamp | undefined): string {
  if (!at) return "";
  const date = timestampDate(at);
  return (date.toDateString() === new Date().toDateString() ? TIME : DATE_TIME).format(date);
}

const UNITS = [
  [86_400, "d"],
  [3_600, "h"],
  [60, "min"],
] as const;

/** How long ago a moment was, in the two largest units: `2 h 5 min`. */
export function age(since: Timestamp | undefined, now: number): string {
  if (!since) return "";
  const seconds = Math.max(0, Math.floor((now - timestampDate(since).getTime()) / 1000));
  let left = seconds;
  const parts: string[] = [];
  for (const [size, unit] of UNITS) {
    const units = Math.floor(left / size);
    left -= units * size;
    if (units > 0) parts.push(`${units} ${unit}`);
  }
  if (seconds < 3_600) parts.push(`${left} s`);
  return parts.slice(0, 2).join(" ");
}
