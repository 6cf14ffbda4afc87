import { defineConfig } from "vite";

export default defineConfig({
  build: {
    target: "es2022",
    // The policy of the page allows no inline module and no data URL.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The names that services/console/src/page.rs serves.
    rolldownOptions: { output: { entryFileNames: "console.js", assetFileNames: "console[extname]" } },
  },
  // For work on the page: `npx vite` passes calls on to a `lonja up` that runs beside it.
  server: { proxy: { "/lonja.console.v1.ConsoleService": "http://127.0.0.1:8080" } },
});
