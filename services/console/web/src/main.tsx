// The page: one view, and links to the others.

import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { ActivityView } from "./activity";
import { setToken } from "./api";
import { FilesView } from "./files";
import { OverviewView } from "./overview";
import { link, useRoute, VIEWS, type Route } from "./route";
import { UsersView } from "./users";
import { onRefused } from "./watch";

const TITLES = { overview: "Overview", users: "Users", files: "Files", activity: "Activity" };

function Page() {
  const route = useRoute();
  const [isRefused, setRefused] = useState(false);
  // How many tokens were entered. After each one the view begins anew.
  const [attempt, setAttempt] = useState(0);
  useEffect(() => onRefused(() => setRefused(true)), []);
  useEffect(() => {
    document.title = `${TITLES[route.view]} · Lonja`;
  }, [route.view]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to the content
      </a>
      <header>
        <p class="brand">Lonja</p>
        <nav aria-label="Views">
          {VIEWS.map((view) => (
            <a key={view} href={link(view)} aria-current={view === route.view ? "page" : undefined}>
              {TITLES[view]}
            </a>
          ))}
        </nav>
      </header>
      <main id="main" tabIndex={-1}>
        {isRefused ? (
          <TokenForm isAgain={attempt > 0} onToken={() => (setRefused(false), setAttempt(attempt + 1))} />
        ) : (
          <View key={attempt} route={route} />
        )}
      </main>
    </>
  );
}

function View({ route }: { route: Route }) {
  switch (route.view) {
    case "overview":
      return <OverviewView />;
    case "users":
      return <UsersView query={route.query} />;
    case "files":
      return <FilesView query={route.query} />;
    case "activity":
      return <ActivityView query={route.query} />;
  }
}

function TokenForm({ isAgain, onToken }: { isAgain: boolean; onToken: () => void }) {
  const [token, setText] = useState("");
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = (event: Event) => {
    event.preventDefault();
    setToken(token);
    onToken();
  };
  return (
    <>
      <h1>This console asks for a token</h1>
      <form onSubmit={submit}>
        {isAgain && (
          <p class="lost" role="alert">
            That is not the console’s token.
          </p>
        )}
        <label class="field">
          <span>Token (LONJA_CONSOLE_TOKEN)</span>
          <input
            ref={field}
            type="password"
            pattern="[!-~]+"
            title="Letters, digits and signs, without spaces"
            autocomplete="current-password"
            required
            value={token}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>{" "}
        <button type="submit">Open</button>
      </form>
    </>
  );
}

const app = document.getElementById("app");
if (app) render(<Page />, app);
