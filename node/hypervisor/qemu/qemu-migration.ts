/** One `migrate` of QEMU: its status as QEMU tells it by events, and the stream that it writes to our socket. */

import { unlinkSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { MEMORY_CHUNK_SIZE_MAX } from "../../../protocol/limits.ts";
import type { QmpClient, QmpEvent } from "../../qmp/qmp-client.ts";
import { HypervisorError } from "../errors.ts";

export type MigrationStatus =
  | "setup"
  | "active"
  | "pre-switchover"
  | "device"
  | "completed"
  | "cancelling"
  | "cancelled"
  | "failed"
  /** The connection to QEMU was lost, and QEMU perhaps with it. */
  | "lost";

/** What of the stream is read, and travels, in one piece: whole, with what is put before it. */
const READ_BYTES = MEMORY_CHUNK_SIZE_MAX / 2;

const CANCELLABLE = ["active", "pre-switchover", "device", "cancelling"] as const;
const OVER: readonly MigrationStatus[] = ["completed", "cancelled", "failed", "lost"];

export type MigrationListener = {
  /** A pass over memory ended. */
  onPass(pass: number): void;
  onStatus(status: MigrationStatus): void;
};

export class QemuMigration {
  /** Rejects when QEMU never came to it. */
  readonly socket: Promise<Socket>;
  readonly #client: QmpClient;
  readonly #listener: MigrationListener;
  readonly #server: Server;
  readonly #waiting = new Set<() => void>();
  readonly #stopListening: readonly (() => void)[];
  #status: MigrationStatus = "setup";

  private constructor(
    client: QmpClient,
    { server, socket, listener }: { server: Server; socket: Promise<Socket>; listener: MigrationListener },
  ) {
    this.#client = client;
    this.#server = server;
    this.socket = socket;
    this.#listener = listener;
    this.#stopListening = [
      client.onEvent((event) => this.#event(event)),
      client.onLoss(() => this.#enter("lost")),
    ];
  }

  /** `path`: a socket of that name is made for QEMU to write to. */
  static async begin(
    client: QmpClient,
    { path, listener }: { path: string; listener: MigrationListener },
  ): Promise<QemuMigration> {
    const accepted = Promise.withResolvers<Socket>();
    accepted.promise.catch(() => {});
    const server = createServer({ pauseOnConnect: true, highWaterMark: READ_BYTES }, (socket) => {
      // An error ends the stream; who reads it hears of it there.
      socket.on("error", () => {});
      accepted.resolve(socket);
      server.close();
    });
    server.maxConnections = 1;
    server.once("close", () => {
      accepted.reject(gone("it did not begin to write its memory"));
      unlinkQuietly(path);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, resolve);
    });
    const migration = new QemuMigration(client, { server, socket: accepted.promise, listener });
    try {
      await client.execute("migrate", { uri: `unix:${path}` });
    } catch (error) {
      migration.#enter("failed");
      throw error;
    }
    return migration;
  }

  get status(): MigrationStatus {
    return this.#status;
  }

  get isOver(): boolean {
    return OVER.includes(this.#status);
  }

  /** Resolves at the first of `statuses`, or when the migration is over: with where it is then. */
  async until(...statuses: MigrationStatus[]): Promise<MigrationStatus> {
    while (!statuses.includes(this.#status) && !this.isOver) {
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
    return this.#status;
  }

  /**
   * The guest runs on, where it ran before. Resolves when the migration is over, one way or the other.
   *
   * Not during `setup`: QEMU (10.0) calls a migration cancelled that has no connection yet, makes the connection all
   * the same, and crashes when the next migration begins meanwhile.
   */
  async cancel(): Promise<MigrationStatus> {
    await this.until(...CANCELLABLE);
    if (!this.isOver) {
      await this.#client.execute("migrate_cancel");
      await this.until();
    }
    return this.#status;
  }

  #event({ event, data }: QmpEvent): void {
    if (this.isOver) return;
    if (event === "MIGRATION_PASS") this.#listener.onPass(Number(data.pass));
    if (event === "MIGRATION") this.#enter(data.status as MigrationStatus);
  }

  #enter(status: MigrationStatus): void {
    if (this.isOver) return;
    this.#status = status;
    if (this.isOver) {
      for (const stop of this.#stopListening ?? []) stop();
      this.#server.close();
    }
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
    this.#listener.onStatus(status);
  }
}

export function gone(what: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason: `QEMU: ${what}` });
}

function unlinkQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Closing the server may have removed it before us.
  }
}
