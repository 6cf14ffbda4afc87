// The view and its query. Both are kept in the page's address, so that people can share the
// address.

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

/** The address of a view. Parameters that are empty or 0 are left out. */
export function link(view: View, query: Record<string, string | number> = {}): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== 0) parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return text ? `#/${view}?${text}` : `#/${view}`;
}

/** Shows a view with another query. The address replaces the present one in the browser's history,
 * so that a search makes one step of the history, not one for each letter. */
export function show(view: View, query: Record<string, string | number>): void {
  history.replaceState(null, "", link(view, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** The index of a page's first entry in its list, from 0 on. */
export function offset(query: URLSearchParams): number {
  const asked = Number.parseInt(query.get("from") ?? "0", 10);
  return Number.isSafeInteger(asked) && asked > 0 ? Math.min(asked, 2 ** 31) : 0;
}
