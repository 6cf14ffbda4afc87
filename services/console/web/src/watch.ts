// Following a stream for as long as a view is looked at.

import { Code, ConnectError } from "@connectrpc/connect";
import { useEffect, useState } from "preact/hooks";

/** The index says something at least every five seconds. */
const SILENCE_MS = 12_000;
/** Pauses between attempts, shortest and longest. */
const PAUSE_MS = [500, 5_000] as const;
/** A tab that nobody sees gives its stream back after this long. */
const HIDDEN_MS = 10_000;

export type Watch<T> = {
  /** `lost`: the value is from before. */
  state: "connecting" | "live" | "lost";
  /** Why it was lost. */
  why: string;
  value: T | undefined;
};

const REFUSED = "lonja-refused";

/** Calls back when the index asks for a token; gives what ends that. */
export function onRefused(called: () => void): () => void {
  addEventListener(REFUSED, called);
  return () => removeEventListener(REFUSED, called);
}

/**
 * Follows a stream and folds its messages into a value. When `key` changes it begins anew;
 * when the stream breaks it is opened again, and the value of before stays until there is
 * another.
 */
export function useWatch<M, T>(
  key: string,
  open: (signal: AbortSignal) => AsyncIterable<M>,
  fold: (value: T | undefined, message: M) => T | undefined,
): Watch<T> {
  const [watch, setWatch] = useState<Watch<T>>({ state: "connecting", why: "", value: undefined });
  useEffect(() => {
    const stop = new AbortController();
    setWatch((was) => ({ ...was, state: "connecting", why: "" }));
    void follow(open, fold, stop.signal, setWatch);
    return () => stop.abort();
    // `open` and `fold` are new in every render; what they do depends on the key alone.
  }, [key]);
  return watch;
}

async function follow<M, T>(
  open: (signal: AbortSignal) => AsyncIterable<M>,
  fold: (value: T | undefined, message: M) => T | undefined,
  stop: AbortSignal,
  setWatch: (change: (was: Watch<T>) => Watch<T>) => void,
): Promise<void> {
  let pause: number = PAUSE_MS[0];
  while (!stop.aborted) {
    await untilVisible(stop);
    const attempt = new AbortController();
    const silence = deadline(attempt, SILENCE_MS);
    const hidden = whileHidden(attempt);
    const signal = AbortSignal.any([stop, attempt.signal]);
    let value: T | undefined;
    let why = "the index is stopping";
    let refused = false;
    try {
      for await (const message of open(signal)) {
        if (stop.aborted) return;
        silence.again();
        pause = PAUSE_MS[0];
        value = fold(value, message);
        if (value !== undefined) {
          const current = value;
          setWatch(() => ({ state: "live", why: "", value: current }));
        }
      }
    } catch (error) {
      const failure = ConnectError.from(error);
      refused = failure.code === Code.Unauthenticated;
      why = attempt.signal.aborted ? "the index does not answer" : failure.rawMessage;
    } finally {
      silence.stop();
      hidden.stop();
    }
    if (stop.aborted) return;
    if (refused) {
      dispatchEvent(new Event(REFUSED));
      return;
    }
    if (document.hidden) continue;
    setWatch((was) => ({ ...was, state: "lost", why }));
    await sleep(pause, stop);
    pause = Math.min(2 * pause, PAUSE_MS[1]);
  }
}

function deadline(attempt: AbortController, ms: number) {
  let timer = setTimeout(() => attempt.abort(), ms);
  return {
    again() {
      clearTimeout(timer);
      timer = setTimeout(() => attempt.abort(), ms);
    },
    stop: () => clearTimeout(timer),
  };
}

function whileHidden(attempt: AbortController) {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const changed = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => attempt.abort(), HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", changed);
  return {
    stop() {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", changed);
    },
  };
}

function untilVisible(stop: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const changed = () => {
      if (document.hidden && !stop.aborted) return;
      document.removeEventListener("visibilitychange", changed);
      resolve();
    };
    document.addEventListener("visibilitychange", changed);
    stop.addEventListener("abort", changed, { once: true });
  });
}

function sleep(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    stop.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
