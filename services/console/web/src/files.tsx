import { console_ } from "./api";
import type { WatchFilesResponse } from "./gen/lonja/console/v1/console_pb";
import { EmptyPage, Name, Pager, SearchField, StreamState } from "./parts";
import { link, offset, show } from "./route";
import { useWatch } from "./watch";

const PAGE = 50;
/** The largest offset into a list that the index allows; a narrower search shows the rest. */
const MOST = 10_000;

function fold(value: WatchFilesResponse | undefined, message: WatchFilesResponse) {
  return message.beat ? value : message;
}

export function FilesView({ query }: { query: URLSearchParams }) {
  const [text, user] = [query.get("q") ?? "", query.get("user") ?? ""];
  const from = Math.min(offset(query), MOST);
  const request = { query: text, username: user, offset: from, pageSize: PAGE };
  const watch = useWatch(JSON.stringify(request), (signal) => console_.watchFiles(request, { signal }), fold);
  const list = watch.value;
  const pages = {
    from,
    size: PAGE,
    total: list?.total ?? 0n,
    most: MOST,
    address: (from: number) => link("files", { q: text, user, from }),
  };
  return (
    <>
      <h1>Files</h1>
      <div class="filters">
        <SearchField
          label="Words of the name, description or user"
          value={text}
          onSearch={(q) => show("files", { q, user })}
        />
        {user && (
          <p class="chip">
            of <Name text={user} />{" "}
            <a href={link("files", { q: text })} aria-label="Show files of everyone">
              ✕
            </a>
          </p>
        )}
      </div>
      <StreamState watch={watch} what="the files" />
      {list && (
        <div class={watch.state === "live" ? "" : "stale"}>
          {list.files.length === 0 ? (
            watch.isAnswer && (
              <EmptyPage {...pages} none={text || user ? "No file matches." : "Nobody online shares a file."} />
            )
          ) : (
            <table>
              <caption class="for-readers">Files of users online, newest first</caption>
              <thead>
                <tr>
                  <th scope="col">File</th>
                  <th scope="col">Description</th>
                  <th scope="col">User</th>
                  <th scope="col">Address</th>
                </tr>
              </thead>
              <tbody>
                {list.files.map((file) => (
                  <tr key={`${file.username}/${file.filename}`}>
                    <th scope="row">
                      <Name text={file.filename} />
                    </th>
                    <td data-label="Description">
                      <Name text={file.description} />
                    </td>
                    <td data-label="User">
                      <a href={link("files", { user: file.username })}>
                        <Name text={file.username} />
                      </a>
                    </td>
                    <td data-label="Address">{file.address}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
          <Pager {...pages} shown={watch.isAnswer ? list.files.length : undefined} />
        </div>
      )}
    </>
  );
}
