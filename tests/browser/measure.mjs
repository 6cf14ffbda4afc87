// Measures how soon each view of a large index's console is shown, and the memory of its page:
//   node measure.mjs http://127.0.0.1:8080

import { readFile } from "node:fs/promises";

import { close, launch, open } from "./browser.mjs";

/** The bytes of memory of the page's process, with its part of shared memory (PSS). */
async function memory(page) {
  await page.requestGC();
  const session = await page.context().browser().newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const renderers = processInfo.filter(({ type }) => type === "renderer");
  const sizes = await Promise.all(
    renderers.map(async ({ id }) => {
      const rollup = await readFile(`/proc/${id}/smaps_rollup`, "utf8");
      return 1024 * Number(/^Pss:\s+(\d+) kB/m.exec(rollup)[1]);
    }),
  );
  // The largest process shows the page; the browser keeps the others in reserve.
  return Math.max(...sizes);
}

const url = process.argv[2];
const browser = await launch();
const views = {
  overview: (page) => page.getByText("Published files").waitFor(),
  users: (page) => page.getByRole("row").nth(50).waitFor(),
  files: (page) => page.getByRole("row").nth(50).waitFor(),
  activity: (page) => page.getByRole("row").nth(50).waitFor(),
};
for (const [view, isShown] of Object.entries(views)) {
  const taken = [];
  let page;
  for (let round = 0; round < 5; round += 1) {
    if (page) await close(page);
    const began = performance.now();
    page = await open(browser, `${url}/#/${view}`);
    await isShown(page);
    taken.push(performance.now() - began);
  }
  // After this pause the page has kept all that it will keep.
  await new Promise((resolve) => setTimeout(resolve, 5000));
  const mib = (await memory(page)) / 2 ** 20;
  const median = taken.sort((one, other) => one - other)[2];
  console.log(`${view}: shown after ${median.toFixed(0)} ms, the page has ${mib.toFixed(0)} MiB`);
  await close(page);
}
await browser.close();
