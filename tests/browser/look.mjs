// Opens a page in a browser and waits until it shows a text:
//   node look.mjs http://127.0.0.1:8080/#/users alice

import { close, launch, open } from "./browser.mjs";

const [url, text] = process.argv.slice(2);
const browser = await launch();
try {
  const page = await open(browser, url);
  await page.getByText(text).first().waitFor();
  await close(page);
} finally {
  await browser.close();
}
