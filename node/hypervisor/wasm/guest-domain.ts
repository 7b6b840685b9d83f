/**
 * The domain inside its guest process: one state, and the operations that change it.
 *
 *   boot ──▶ running ◀──resume/thaw── suspended ◀── incoming (loaded)
 *               └──suspend/freeze─────▶   │
 *               └──shutdown──▶ shutoff    └──(only `resume` or `thaw` makes it issue I/O again)
 */

import { randomBytes } from "node:crypto";
import type { DomainFile, DomainFolder } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";
import type { DomainSpec, DomainState, DomainStatus, VbdAttachment, VerifyResult } from "../hypervisor.ts";
import { parseGuestConfig } from "./config.ts";
import { GuestMachine } from "./guest-machine.ts";
import { guestErrors, guestFigures, verifyResult } from "./guest-report.ts";
import { type BlockClient, GuestRunner } from "./guest-runner.ts";
import { OutgoingMigration, type Round } from "./memory-outgoing.ts";
import { acceptOne, type IncomingPipe, receiveMemory, type StreamPipe } from "./memory-pipe.ts";

export type GuestDomainOptions = {
  folder: DomainFolder;
  file: DomainFile;
  connect: (vbd: VbdAttachment) => BlockClient;
  /** The domain ended in order: the process has nothing left to do. */
  onEnd: () => void;
};

type Outgoing = { migration: OutgoingMigration; pipe: StreamPipe };
export type OutgoingEvents = {
  onRound: (round: Round) => void;
  onEnded: (ended: { totalBytes: number }) => void;
};

export class GuestDomain {
  readonly #folder: DomainFolder;
  readonly #spec: DomainSpec;
  readonly #machine: GuestMachine;
  readonly #runner: GuestRunner;
  readonly #onEnd: () => void;
  #state: DomainState;
  #crash: Error | undefined;
  #incoming: IncomingPipe | undefined;
  #outgoing: Outgoing | undefined;
  /** Settled by the next step that finds what they wait for. */
  readonly #watchers = new Set<() => void>();

  constructor({ folder, file, connect, onEnd }: GuestDomainOptions) {
    const { spec } = file;
    this.#folder = folder;
    this.#spec = spec;
    this.#onEnd = onEnd;
    this.#machine = new GuestMachine(spec.memoryBytes);
    this.#runner = new GuestRunner({
      machine: this.#machine,
      connect: (vbd) => connect(spec.vbds[vbd]!),
      onCrash: (error) => this.#crashed(error),
      onStep: () => this.#stepped(),
    });
    const config = parseGuestConfig(spec.config);
    this.#state = file.mode === "boot" ? "running" : "incoming";
    if (file.mode === "boot") this.#machine.boot(config, spec.vbds);
  }

  /** Runs a booted guest; opens the way in for one that is received, and answers its socket's path. */
  async begin(): Promise<string | undefined> {
    if (this.#state === "running") {
      this.#runner.run();
      return undefined;
    }
    const path = this.#folder.streamPath(randomBytes(4).toString("hex"));
    this.#incoming = await receiveMemory({
      path,
      memory: this.#machine.memory,
      onData: () => {
        // Whole once, and the source was thawed: what follows makes it whole again, at a later end mark.
        if (this.#state === "suspended") this.#state = "incoming";
      },
    });
    // Half a state is of no use to anyone once its sender is gone.
    void this.#incoming.closed.then(() => {
      if (this.#state === "incoming") this.#end();
    });
    return path;
  }

  status(): DomainStatus {
    if (this.#crash) return { state: "crashed", detail: this.#crash.message };
    if (this.#state === "incoming") return { state: "incoming" };
    const errors = guestErrors(this.#machine);
    if (errors.count === 0) return { state: this.#state };
    return { state: this.#state, detail: `errors: ${errors.count}; first: ${errors.first[0]}` };
  }

  inspect(): Record<string, unknown> {
    const { name, memoryBytes } = this.#spec;
    const domain = { name, ...this.status(), memoryBytes, pid: process.pid };
    if (this.#state === "incoming") return { ...domain, receivedBytes: this.#incoming?.totalBytes ?? 0 };
    const { user, system } = process.cpuUsage();
    return { ...domain, cpuMs: Math.round((user + system) / 1000), ...guestFigures(this.#machine) };
  }

  async suspend(): Promise<void> {
    if (this.#state === "suspended") return;
    this.#expect("suspend", "running");
    this.#state = "suspended";
    await this.#runner.stop();
  }

  resume(): void {
    if (this.#state === "running") return;
    this.#expect("resume", "suspended");
    // From here on the memory is this guest's own.
    this.#incoming?.close();
    this.#incoming = undefined;
    if (this.#outgoing?.migration.frozen) this.cancel();
    this.#state = "running";
    this.#runner.run();
  }

  async shutDown(): Promise<void> {
    this.#expect("shutdown", "running");
    this.#machine.askToShutDown();
    await this.#until(() => this.#machine.halted);
    this.cancel();
    this.#state = "shutoff";
    await this.#runner.stop();
    this.#end();
  }

  async verify(): Promise<VerifyResult> {
    this.#expect("verify", "running");
    const pass = this.#machine.startVerify();
    await this.#until(() => this.#machine.verified(pass));
    return verifyResult(this.#machine);
  }

  /** Opens a socket for the stream and begins to make passes once it is read. */
  async migrateOut({
    onRound,
    onEnded,
  }: OutgoingEvents): Promise<{ streamPath: string; cancel: () => void }> {
    if (this.#outgoing) throw badState("migrate-out", "migrating");
    // A suspended domain may go too: its first pass is its tail.
    this.#expect("migrate-out", "running", "suspended");
    const streamPath = this.#folder.streamPath(randomBytes(4).toString("hex"));
    const pipe = await acceptOne(streamPath);
    const migration = new OutgoingMigration({
      machine: this.#machine,
      send: (bytes) => pipe.send(bytes),
      onRound,
      onEnded,
    });
    const outgoing: Outgoing = { migration, pipe };
    this.#outgoing = outgoing;
    void pipe.closed.then(() => this.#drop(outgoing));
    this.#passes(outgoing);
    return { streamPath, cancel: () => this.#drop(outgoing) };
  }

  /** Resolves when nothing runs and nothing is issued any more; the tail follows by itself. */
  async freeze(): Promise<void> {
    const outgoing = this.#outgoing;
    if (!outgoing) throw badState("freeze", "not migrating");
    if (outgoing.migration.frozen) return;
    this.#expect("freeze", "running", "suspended");
    this.#state = "suspended";
    await this.#runner.stop();
    outgoing.migration.finish().catch(() => this.#drop(outgoing));
  }

  async thaw(): Promise<void> {
    const outgoing = this.#outgoing;
    if (!outgoing?.migration.frozen) throw badState("thaw", "not frozen");
    await outgoing.migration.thaw();
    this.#expect("thaw", "suspended");
    this.#state = "running";
    this.#runner.run();
    this.#passes(outgoing);
  }

  /** Ends the stream; a frozen domain stays suspended. Idempotent. */
  cancel(): void {
    if (this.#outgoing) this.#drop(this.#outgoing);
  }

  /**
   * The whole state came in: suspended from here on. The way in stays open until the domain is resumed, because
   * its source may be thawed and stream on. Rejects when it is not a state.
   */
  async loaded(memoryBytes: number): Promise<void> {
    // Also one that is whole already: what makes it whole again may still be on its way on the stream's own socket.
    this.#expect("loaded", "incoming", "suspended");
    if (this.#incoming === undefined) throw badState("loaded", this.#state);
    await this.#incoming.loaded(memoryBytes);
    this.#machine.checkLoaded(this.#spec.vbds);
    this.#state = "suspended";
  }

  #passes(outgoing: Outgoing): void {
    outgoing.migration.run().catch(() => this.#drop(outgoing));
  }

  #drop(outgoing: Outgoing): void {
    if (this.#outgoing !== outgoing) return;
    this.#outgoing = undefined;
    outgoing.migration.cancel();
    outgoing.pipe.close();
  }

  #stepped(): void {
    for (const watcher of this.#watchers) watcher();
  }

  async #until(condition: () => boolean): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const watcher = (): void => {
      if (condition() || this.#crash) resolve();
    };
    this.#watchers.add(watcher);
    this.#runner.wake();
    await promise;
    this.#watchers.delete(watcher);
    if (this.#crash) throw badState("wait for the guest", "crashed");
  }

  #crashed(error: Error): void {
    console.error("guest crashed", error);
    this.#crash = error;
    this.#state = "crashed";
    this.cancel();
    void this.#runner.stop();
    this.#stepped();
  }

  #end(): void {
    this.#folder.writeExit({ state: "shutoff" });
    this.#onEnd();
  }

  #expect(operation: string, ...allowed: DomainState[]): void {
    if (!allowed.includes(this.#state)) throw badState(operation, this.#state);
  }
}

function badState(operation: string, state: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STATE", operation, state });
}
