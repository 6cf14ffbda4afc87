import { console_ } from "./api";
import { age } from "./format";
import type { WatchUsersResponse } from "./gen/lonja/console/v1/console_pb";
import { EmptyPage, Name, Pager, SearchField, StreamState, useNow } from "./parts";
import { link, offset, show } from "./route";
import { useWatch } from "./watch";

const PAGE = 50;

function fold(value: WatchUsersResponse | undefined, message: WatchUsersResponse) {
  return message.beat ? value : message;
}

export function UsersView({ query }: { query: URLSearchParams }) {
  const [text, from] = [query.get("q") ?? "", offset(query)];
  const request = { query: text, offset: from, pageSize: PAGE };
  const watch = useWatch(JSON.stringify(request), (signal) => console_.watchUsers(request, { signal }), fold);
  const now = useNow();
  const list = watch.value;
  // The gateway checks peers only where it was told to.
  const isChecked = list?.users.some((user) => user.lastSeen) ?? false;
  const pages = {
    from,
    size: PAGE,
    total: list?.total ?? 0n,
    most: 2 ** 31,
    address: (from: number) => link("users", { q: text, from }),
  };
  return (
    <>
      <h1>Users online</h1>
      <div class="filters">
        <SearchField label="Name contains" value={text} onSearch={(q) => show("users", { q })} />
      </div>
      <StreamState watch={watch} what="the users" />
      {list && (
        <div class={watch.state === "live" ? "" : "stale"}>
          {list.users.length === 0 ? (
            watch.isAnswer && (
              <EmptyPage {...pages} none={text ? `Nobody online has “${text}” in the name.` : "Nobody is online."} />
            )
          ) : (
            <table>
              <caption class="for-readers">Users online, newest session first</caption>
              <thead>
                <tr>
                  <th scope="col">User</th>
                  <th scope="col">Address</th>
                  <th scope="col">Online for</th>
                  {isChecked && <th scope="col">Last seen</th>}
                  <th scope="col">Shares</th>
                </tr>
              </thead>
              <tbody>
                {list.users.map((user) => (
                  <tr key={user.username}>
                    <th scope="row">
                      <Name text={user.username} />
                    </th>
                    <td data-label="Address">{user.address}</td>
                    <td data-label="Online for">{age(user.onlineSince, now)}</td>
                    {isChecked && (
                      <td data-label="Last seen">{user.lastSeen ? `${age(user.lastSeen, now)} ago` : "not yet"}</td>
                    )}
                    <td>
                      <a href={link("files", { user: user.username })}>
                        Files<span class="for-readers"> of {user.username}</span>
                      </a>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
          <Pager {...pages} shown={watch.isAnswer ? list.users.length : undefined} />
        </div>
      )}
    </>
  );
}
