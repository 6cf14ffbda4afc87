// `lonja up` as a person runs it, and peers that use it.

import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const LONJA = process.env.LONJA ?? fileURLToPath(new URL("../../target/debug/lonja", import.meta.url));

/** How long a test waits for something before it fails, in milliseconds. */
export const PATIENCE_MS = 30_000;

const LINES = { peers: "peers connect to", datetime: "time over SOAP", console: "console" };

// Settings of the person who runs the tests must not change what is tested.
const environment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith("LONJA_") && !name.startsWith("OTEL_")),
);

export class Index {
  /** Starts an index on ports that the system chooses. */
  static async start(...options) {
    const index = new Index();
    index.data = await mkdtemp(join(tmpdir(), "lonja-"));
    index.options = options;
    index.addresses = { peers: "127.0.0.1:0", datetime: "127.0.0.1:0", console: "127.0.0.1:0" };
    await index.again();
    return index;
  }

  /** Starts the index on its data. Later starts take the addresses of the first start. */
  async again() {
    const { peers, datetime, console } = this.addresses;
    const addresses = ["--gateway-listen", peers, "--datetime-listen", datetime, "--console-listen", console];
    const command = ["up", "--data-dir", this.data, "--no-operation-log", ...addresses, ...this.options];
    this.process = spawn(LONJA, command, { env: environment, stdio: ["ignore", "pipe", "inherit"] });
    const ended = new Promise((_, reject) => {
      this.process.once("exit", (code) => reject(new Error(`lonja up ended with ${code}`)));
    });
    ended.catch(() => undefined);
    await Promise.race([this.#listens(), ended]);
  }

  async #listens() {
    for await (const line of createInterface({ input: this.process.stdout })) {
      for (const [name, begins] of Object.entries(LINES)) {
        if (line.startsWith(begins)) this.addresses[name] = /[\d.]+:\d+/.exec(line)[0];
      }
      if (line.startsWith(LINES.console)) return;
    }
  }

  /** Ends the index as `kill -9` does. */
  async kill() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGKILL");
    await ended;
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill();
    await rm(this.data, { recursive: true });
  }

  get url() {
    return `http://${this.addresses.console}`;
  }

  /** Runs one command of a peer, such as `peer("alice", "register")`. */
  async peer(user, ...command) {
    const [host, port] = this.addresses.peers.split(":");
    const index = ["-s", host, "-p", port, "--datetime", `http://${this.addresses.datetime}/`];
    const options = { env: environment, cwd: this.data, timeout: PATIENCE_MS };
    await promisify(execFile)(LONJA, ["peer", ...index, "--as", user, ...command], options);
  }

  /** Registers and connects a user, and publishes these files. */
  async joins(user, ...files) {
    await this.peer(user, "register");
    await this.peer(user, "connect", "7001");
    for (const file of files) await this.peer(user, "publish", file, "a description");
  }
}
