/**
 * The control process's end of the data process: starts it, serves it the metadata, starts it again when it
 * dies. A data process that dies takes no guest with it; its migrations begin again from the journal.
 */

import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { AdmissionSnapshot } from "../cluster/cluster-keys.ts";
import type { NodeConfig } from "../config.ts";
import type { MigrationSummary } from "../control/api.ts";
import { NodeError } from "../errors.ts";
import type { Log } from "../log.ts";
import { Rpc, type RpcPort } from "../rpc/rpc.ts";
import type { DataService } from "./data-service.ts";
import type { ControlSide, DataReady } from "./main.ts";

/**
 * A small young generation: every record of the encryption makes off-heap buffers that only a scavenge frees,
 * and with the default size V8 does full collections instead (measured: 1.8 times the throughput).
 */
const NODE_FLAGS = ["--max-semi-space-size=1", "--disable-warning=ExperimentalWarning"];

const RESTART_DELAY_MS = 500;
/** A process that dies so often in a row does so at its start: an operator has to look. */
const RESTARTS_MAX = 5;

export type DataProcessOptions = {
  config: NodeConfig;
  onChanged(domain: string): void;
  onProgress(domain: string, progress: MigrationSummary): void;
  /** It cannot be kept running. */
  onFailure(error: Error): void;
};

export class DataProcess {
  readonly #log: Log;
  readonly #served: ControlSide;
  readonly #options: DataProcessOptions;
  #child: ChildProcess | undefined;
  #rpc: Rpc | undefined;
  #addresses: readonly string[] = [];
  #stopping = false;
  #failures = 0;

  constructor({ log, ...served }: { log: Log } & ControlSide, options: DataProcessOptions) {
    this.#log = log;
    this.#served = served;
    this.#options = options;
  }

  /** Where the bulk network listens. */
  addresses(): readonly string[] {
    return this.#addresses;
  }

  /** Throws INTERNAL while the process is being started again. */
  service(): Pick<DataService, keyof DataService> {
    if (this.#rpc === undefined) {
      throw new NodeError("INTERNAL", {
        reason: "the data process is being started again; ask again in a moment",
      });
    }
    return this.#rpc.remote<DataService>(["service"]) as unknown as Pick<DataService, keyof DataService>;
  }

  /** Whom its network lets in from now on; connections of others are cut. */
  admit(snapshot: AdmissionSnapshot): void {
    this.#rpc?.notify("admission", snapshot);
  }

  /** Resolves when it listens and its domains are exported. */
  async start(): Promise<void> {
    const file = fileURLToPath(
      new URL(`./main.${import.meta.url.endsWith(".ts") ? "ts" : "js"}`, import.meta.url),
    );
    const child = fork(file, [], {
      execArgv: NODE_FLAGS,
      serialization: "advanced",
      env: { ...process.env, SOJOURN_DATA_CONFIG: JSON.stringify(this.#options.config) },
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    this.#child = child;
    const ready = Promise.withResolvers<DataReady>();
    const rpc = new Rpc(childPort(child), this.#served);
    rpc.onNotice<DataReady>("ready", (message) => ready.resolve(message));
    rpc.onNotice<string>("changed", (domain) => this.#options.onChanged(domain));
    rpc.onNotice<{ domain: string; progress: MigrationSummary }>("progress", ({ domain, progress }) =>
      this.#options.onProgress(domain, progress),
    );
    child.once("exit", (code, signal) => {
      ready.reject(
        new NodeError("INTERNAL", { reason: `the data process ended at its start (${signal ?? code})` }),
      );
      this.#ended(child, `${signal ?? code}`);
    });
    // Calls are answered before `ready`: the process may be asked as soon as its domains are open.
    this.#addresses = (await ready.promise).addresses;
    this.#rpc = rpc;
    // It asked at its start, and the answer may have become old since.
    this.admit(await this.#served.admission());
    this.#failures = 0;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    await this.service()
      .stop()
      .catch(() => undefined);
    if (child.connected) child.disconnect();
    await exited;
  }

  #ended(child: ChildProcess, how: string): void {
    if (this.#child !== child) return;
    this.#rpc = undefined;
    if (this.#stopping) return;
    this.#failures += 1;
    this.#log.error("the data process died; guests wait for the next one", { how, failures: this.#failures });
    if (this.#failures > RESTARTS_MAX) {
      this.#options.onFailure(
        new NodeError("INTERNAL", { reason: "the data process cannot be kept running" }),
      );
      return;
    }
    setTimeout(() => {
      if (!this.#stopping) this.start().catch((error: unknown) => this.#log.error("restart", { error }));
    }, RESTART_DELAY_MS * this.#failures);
  }
}

function childPort(child: ChildProcess): RpcPort {
  return {
    post: (message) => {
      if (child.connected) child.send(message as object);
    },
    onMessage: (listener) => child.on("message", listener),
    onClose: (listener) => child.on("disconnect", listener),
  };
}
