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
  /** `lost`: the value is from before. `refused`: there will be none. */
  state: "connecting" | "live" | "lost" | "refused";
  /** Why it was lost or refused. */
  why: string;
  value: T | undefined;
  /** Whether the value is the answer to what is asked now, not to what was before. */
  isAnswer: boolean;
};

type Followed<T> = Omit<Watch<T>, "isAnswer"> & { key: string };

const REFUSED = "lonja-refused";

/** Calls back when the index asks for a token; gives what ends that. */
export function onRefused(called: () => void): () => void {
  addEventListener(REFUSED, called);
  return () => removeEventListener(REFUSED, called);
}

/**
 * Follows a stream and folds its messages into a value. When `key` changes it begins anew;
 * when the stream breaks it is opened again. The value of before stays until there is
 * another.
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
