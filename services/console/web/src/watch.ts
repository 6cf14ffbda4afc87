// Follows a stream for as long as its view is looked at.

import { Code, ConnectError } from "@connectrpc/connect";
import { useEffect, useState } from "preact/hooks";

/** How long a stream may be silent before it counts as lost. When nothing changes, the index sends a
 * beat after five seconds. */
const SILENCE_MS = 12_000;
/** The shortest and the longest pause between two attempts to open a stream. */
const PAUSE_MS = [500, 5_000] as const;
/** How long a tab may be hidden before it closes its stream. */
const HIDDEN_MS = 10_000;

export type Watch<T> = {
  /** `lost`: the stream broke, the value is the last one. `refused`: there will be no value. */
  state: "connecting" | "live" | "lost" | "refused";
  /** Why the stream was lost or refused; empty otherwise. */
  why: string;
  value: T | undefined;
  /** Whether the value answers the present request, and not an earlier one. */
  isAnswer: boolean;
};

type Followed<T> = Omit<Watch<T>, "isAnswer"> & { key: string };

const REFUSED = "lonja-refused";

/** Calls `called` whenever the index asks for a token. Returns a function that ends this. */
export function onRefused(called: () => void): () => void {
  addEventListener(REFUSED, called);
  return () => removeEventListener(REFUSED, called);
}

/**
 * Follows a stream and folds its messages into a value. A new `key` opens another stream; a stream
 * that breaks is opened again. The last value stays until there is a new one.
 */
export function useWatch<M, T>(
  key: string,
  open: (signal: AbortSignal) => AsyncIterable<M>,
  fold: (value: T | undefined, message: M) => T | undefined,
): Watch<T> {
  const [followed, setFollowed] = useState<Followed<T>>({ state: "connecting", why: "", value: undefined, key });
  useEffect(() => {
    const stop = new AbortController();
    setFollowed((was) => ({ ...was, state: "connecting", why: "" }));
    void follow(key, open, fold, stop.signal, setFollowed);
    return () => stop.abort();
    // `open` and `fold` are new in every render; what they do depends on the key alone.
  }, [key]);
  const { key: answered, ...watch } = followed;
  return { ...watch, isAnswer: watch.value !== undefined && answered === key };
}

async function follow<M, T>(
  key: string,
  open: (signal: AbortSignal) => AsyncIterable<M>,
  fold: (value: T | undefined, message: M) => T | undefined,
  stop: AbortSignal,
  setFollowed: (change: (was: Followed<T>) => Followed<T>) => void,
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
    let code: Code | undefined;
    try {
      for await (const message of open(signal)) {
        if (stop.aborted) return;
        silence.again();
        pause = PAUSE_MS[0];
        value = fold(value, message);
        if (value !== undefined) {
          const current = value;
          setFollowed(() => ({ state: "live", why: "", value: current, key }));
        }
      }
    } catch (error) {
      const failure = ConnectError.from(error);
      code = failure.code;
      why = attempt.signal.aborted ? "the index does not answer" : failure.rawMessage;
    } finally {
      silence.stop();
      hidden.stop();
    }
    if (stop.aborted) return;
    if (code === Code.Unauthenticated) {
      dispatchEvent(new Event(REFUSED));
      return;
    }
    if (code === Code.InvalidArgument) {
      setFollowed(() => ({ state: "refused", why, value: undefined, key }));
      return;
    }
    if (document.hidden) {
      setFollowed((was) => ({ ...was, state: "connecting", why: "" }));
      continue;
    }
    setFollowed((was) => ({ ...was, state: "lost", why }));
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
