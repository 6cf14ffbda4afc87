// Which view is shown, and of what: kept in the address, so that it can be shared.

import { useEffect, useState } from "preact/hooks";

export const VIEWS = ["overview", "users", "files", "activity"] as const;
export type View = (typeof VIEWS)[number];

export type Route = { view: View; query: URLSearchParams };

function current(): Route {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const view = VIEWS.find((view) => view === name) ?? "overview";
  return { view, query: new URLSearchParams(query) };
}

export function useRoute(): Route {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const changed = () => setRoute(current());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/** The address of a view. What is empty is left out. */
export function link(view: View, query: Record<string, string | number> = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== 0) parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return text ? `#/${view}?${text}` : `#/${view}`;
}

/** Shows another part of the same view. What is typed makes one step of the history. */
export function show(view: View, query: Record<string, string | number>): void {
  history.replaceState(null, "", link(view, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** Where a page of a list begins. */
export function offset(query: URLSearchParams): number {
  const asked = Number.parseInt(query.get("from") ?? "0", 10);
  return Number.isSafeInteger(asked) && asked > 0 ? Math.min(asked, 2 ** 31) : 0;
}
