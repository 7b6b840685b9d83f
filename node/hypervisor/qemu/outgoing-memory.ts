/**
 * The live stream of a `qemu` domain, out of this host.
 *
 *   passes ──freeze──▶ QEMU: pre-switchover ──ended──▶ tail ──▶ QEMU: completed
 *     ▲                        └────────thaw──────────────────────┘
 *
 * QEMU decides itself when to stop the guest: when what is left fits a threshold. Until `freeze` it is one byte,
 * so that only a guest that writes nothing at all is stopped unasked; then the pass counts as converged, and if no
 * freeze follows soon the guest goes on and QEMU begins anew. `pause-before-switchover` holds the stopped guest
 * before its tail is sent: as long as its block nodes are still active, for whoever harvests their bitmaps.
 *
 * A thawed domain cannot go on with a stream that QEMU has given up: it begins with another, see stream-frames.ts.
 */

import { randomBytes } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import type { DomainFolder } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";
import type { OutgoingMemory } from "../hypervisor.ts";
import { dataFrame, frameHead } from "../stream-frames.ts";
import { gone, type MigrationStatus, QemuMigration } from "./qemu-migration.ts";

type Round = { round: number; remainingBytes: number; converged: boolean };

/** What may be left for the tail at the rate that was measured. */
const TAIL_GOAL_MS = 20;
/** Goes out in well under a millisecond: fewer bytes are not worth a further pass. */
const TAIL_BYTES_MIN = 256 << 10;
const PACED_BYTES_MIN = 2 << 20;
/** Passes after which whatever is left is left. */
const ROUNDS_MAX = 30;
/** A pass that leaves more than this part of what the one before left does not get anywhere. */
const SHRINK_RATIO = 0.9;
/** A freeze that finds no pass below its threshold doubles it: meanwhile the guest runs. */
const LOOSEN_EVERY_MS = 200;
/** How long a guest stays stopped that QEMU stopped without being asked. */
const UNASKED_STOP_MS = 250;
/** Of a migration of an earlier process we get no events of its beginning: it is asked. */
const EARLIER_POLL_MS = 2;

export class QemuOutgoingMemory implements OutgoingMemory {
  readonly stream: AsyncIterable<Uint8Array>;
  readonly #client: QmpClient;
  readonly #folder: DomainFolder;
  readonly #wasRunning: boolean;
  readonly #listeners: ((round: Round) => void)[] = [];
  #migration: QemuMigration | undefined;
  #lastRound: Round | undefined;
  #isAsking = false;
  #isPaced = false;
  /** With so little left QEMU may stop the guest, during a freeze. */
  #tailBytes = TAIL_BYTES_MIN;
  /** What QEMU sent per second, millions of bits, when nothing held it back. */
  #mbps = 0;
  #givenBytes = 0;
  #state: "passes" | "freezing" | "frozen" | "cancelled" = "passes";
  #isTailAsked = false;
  #ended = Promise.withResolvers<number>();
  /** Settles when there is another migration to read, or none any more. */
  #further = Promise.withResolvers<void>();
  #unasked: NodeJS.Timeout | undefined;
  /** A migration that was given up by ourselves, and the beginning of the next. */
  #restarting: Promise<void> = Promise.resolve();
  #stoppedAtMs = 0;
  readonly #stopListening: () => void;

  private constructor(client: QmpClient, folder: DomainFolder, wasRunning: boolean) {
    this.#client = client;
    this.#folder = folder;
    this.#wasRunning = wasRunning;
    this.stream = this.#read();
    this.#ended.promise.catch(() => {});
    this.#stopListening = client.onEvent(({ event }) => {
      if (event === "STOP") this.#stoppedAtMs = performance.now();
    });
  }

  static async begin(
    client: QmpClient,
    { folder, isRunning }: { folder: DomainFolder; isRunning: boolean },
  ): Promise<QemuOutgoingMemory> {
    const outgoing = new QemuOutgoingMemory(client, folder, isRunning);
    await endEarlier(client);
    await client.execute("migrate-set-capabilities", {
      capabilities: ["events", "pause-before-switchover"].map((capability) => ({ capability, state: true })),
    });
    await outgoing.#beginMigration();
    return outgoing;
  }

  /** A pass that ended before anyone listened is told at once: the driver must not wait for the next. */
  onRound(listener: (round: Round) => void): void {
    this.#listeners.push(listener);
    if (this.#lastRound) listener(this.#lastRound);
  }

  async freeze(): Promise<void> {
    if (this.#state === "frozen") return;
    if (this.#state !== "passes") throw badState("freeze", this.#state);
    this.#state = "freezing";
    clearTimeout(this.#unasked);
    await this.#restarting;
    const migration = this.#running();
    this.#tailBytes = TAIL_BYTES_MIN;
    if (migration.status !== "pre-switchover") await this.#steer(this.#lastRound?.remainingBytes ?? 0);
    const loosening = setInterval(() => void this.#loosen().catch(() => {}), LOOSEN_EVERY_MS);
    const status = await migration.until("pre-switchover").finally(() => clearInterval(loosening));
    if (status !== "pre-switchover" || this.#state !== "freezing")
      throw gone(`its migration is ${status} before the guest was stopped`);
    this.#state = "frozen";
  }

  stoppedForMs(): number {
    return performance.now() - this.#stoppedAtMs;
  }

  /** To be called once the vbds are fenced: QEMU lets go of its block nodes with the tail. */
  async ended(): Promise<number> {
    const { promise } = this.#ended;
    if (this.#state === "frozen" && !this.#isTailAsked) {
      this.#isTailAsked = true;
      await this.#client.execute("migrate-continue", { state: "pre-switchover" });
    }
    return promise;
  }

  async thaw(): Promise<void> {
    if (this.#state !== "frozen" && this.#state !== "freezing") throw badState("thaw", this.#state);
    // QEMU may be about to stop the guest: there is no taking that back but by beginning again.
    if (this.#state === "freezing") this.#state = "frozen";
    await this.#restarting.catch(() => undefined);
    await this.#beginAgain();
  }

  async cancel(): Promise<void> {
    if (this.#state === "cancelled") return;
    const isFrozen = this.#state === "frozen";
    this.#state = "cancelled";
    this.#stopListening();
    clearTimeout(this.#unasked);
    await this.#restarting.catch(() => undefined);
    const migration = this.#migration;
    try {
      const wasOver = migration?.isOver ?? true;
      await migration?.cancel();
      // QEMU lets a guest go on whose migration is cancelled, also one that was stopped for it.
      if (isFrozen && !wasOver) await this.#client.execute("stop");
    } catch {
      // QEMU is gone, and the domain's state says so.
    }
    this.#ended.reject(gone("the migration was cancelled"));
    this.#further.resolve();
    await migration?.socket.then(
      (socket) => socket.destroy(),
      () => undefined,
    );
  }

  async #beginMigration(): Promise<void> {
    this.#isPaced = false;
    await this.#allowTail(1);
    this.#migration = await QemuMigration.begin(this.#client, {
      path: this.#folder.streamPath(randomBytes(4).toString("hex")),
      listener: {
        onPass: (pass) => void this.#ask(pass),
        onStatus: (status) => this.#changed(status),
      },
    });
  }

  /** The guest goes on, and QEMU begins with all of its memory again. */
  async #beginAgain(): Promise<void> {
    clearTimeout(this.#unasked);
    await this.#migration?.cancel();
    if (this.#wasRunning) await goOn(this.#client);
    this.#isTailAsked = false;
    this.#lastRound = undefined;
    this.#ended.reject(gone("the domain was thawed"));
    this.#ended = Promise.withResolvers();
    this.#ended.promise.catch(() => {});
    const further = this.#further;
    this.#further = Promise.withResolvers();
    if (this.#state === "frozen") this.#state = "passes";
    if (!this.#isCancelled()) await this.#beginMigration();
    further.resolve();
  }

  async *#read(): AsyncGenerator<Uint8Array> {
    for (let isFirst = true; !this.#isCancelled(); isFirst = false) {
      const migration = this.#running();
      const further = this.#further;
      if (!isFirst) yield this.#give(frameHead("again"));
      yield* this.#readOne(migration);
      const status = await migration.until();
      if (status === "completed") {
        const whole = this.#give(frameHead("whole"));
        if (this.#migration === migration) this.#ended.resolve(this.#givenBytes);
        yield whole;
      } else if (status !== "cancelled" && !this.#isCancelled()) {
        const error = gone(`its migration is ${status}: ${await this.#whyFailed()}`);
        this.#ended.reject(error);
        throw error;
      }
      await further.promise;
    }
  }

  async *#readOne(migration: QemuMigration): AsyncGenerator<Uint8Array> {
    try {
      const socket = await migration.socket;
      for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
        yield this.#give(dataFrame(chunk as Uint8Array));
      }
    } catch {
      // The migration's status says how it ended.
    }
  }

  #give(bytes: Uint8Array): Uint8Array {
    this.#givenBytes += bytes.length;
    return bytes;
  }

  /**
   * How much is left after the pass. One question at a time: passes over little memory follow each other closely.
   * Also while a freeze waits for its pass: whoever flushes the vbds ahead of it does so with every pass.
   */
  async #ask(pass: number): Promise<void> {
    const arePasses = (): boolean => this.#state === "passes" || this.#state === "freezing";
    if (this.#isAsking || !arePasses() || pass < 2) return;
    this.#isAsking = true;
    try {
      const { ram } = await this.#client.execute("query-migrate");
      if (ram === undefined || !arePasses()) return;
      if (!this.#isPaced) this.#mbps = ram.mbps ?? 0;
      this.#tell(judge(ram.remaining, { pass, mbps: this.#mbps, before: this.#lastRound }));
    } catch {
      // The migration's status says what became of it.
    } finally {
      this.#isAsking = false;
    }
  }

  #tell(round: Round): void {
    this.#lastRound = round;
    for (const listener of this.#listeners) listener(round);
    // The migration's status says what became of a QEMU that does not answer.
    if (this.#state === "freezing") void this.#steer(round.remainingBytes).catch(() => undefined);
    else if (round.converged !== this.#isPaced) void this.#pace(round).catch(() => undefined);
  }

  /**
   * While all is nearly said QEMU would make one pass after the other as fast as the stream takes them: what lies
   * between it and the destination would never get less, and the tail would have to wait behind it.
   */
  async #pace({ converged, remainingBytes }: Round): Promise<void> {
    this.#isPaced = converged;
    await this.#client.execute("migrate-set-parameters", {
      "max-bandwidth": converged ? pacedBandwidth(remainingBytes) : 0,
    });
  }

  /** For a freeze: QEMU stops the guest after a pass that leaves about as much as the last one, and within the goal. */
  async #steer(remainingBytes: number): Promise<void> {
    this.#isPaced = true;
    const wanted = Math.min(1.5 * remainingBytes, goalBytes(this.#mbps));
    this.#tailBytes = Math.max(this.#tailBytes, wanted);
    await this.#allowTail(this.#tailBytes, { bandwidth: pacedBandwidth(remainingBytes) });
  }

  async #loosen(): Promise<void> {
    this.#tailBytes *= 2;
    await this.#allowTail(this.#tailBytes, { bandwidth: pacedBandwidth(this.#tailBytes) });
  }

  #changed(status: MigrationStatus): void {
    if (status !== "pre-switchover" || this.#state !== "passes") return;
    this.#unasked = setTimeout(() => this.#undoUnasked(), UNASKED_STOP_MS);
    this.#tell({ round: (this.#lastRound?.round ?? 1) + 1, remainingBytes: 0, converged: true });
  }

  #undoUnasked(): void {
    if (this.#state !== "passes" || !this.#wasRunning) return;
    this.#restarting = this.#beginAgain();
    this.#restarting.catch((error: unknown) => this.#ended.reject(error));
  }

  /** QEMU stops the guest once no more than `bytes` are left. Counts from its next look on, within 100 ms. */
  async #allowTail(bytes: number, { bandwidth = 0 } = {}): Promise<void> {
    // Its threshold is bandwidth × time: a time of one millisecond makes it a number of bytes.
    const bytesPerSecond = Math.ceil(bytes) * 1000;
    await this.#client.execute("migrate-set-parameters", {
      "max-bandwidth": bandwidth,
      "downtime-limit": 1,
      "avail-switchover-bandwidth": bytesPerSecond,
    });
  }

  async #whyFailed(): Promise<string> {
    const info = await this.#client.execute("query-migrate").catch(() => undefined);
    return info?.["error-desc"] ?? "QEMU gives no reason";
  }

  #running(): QemuMigration {
    if (this.#migration === undefined) throw new Error("a stream has a migration from its beginning on");
    return this.#migration;
  }

  #isCancelled(): boolean {
    return this.#state === "cancelled";
  }
}

/** A pass each tenth of a second, and some more: QEMU counts its rate in tenths of a second. */
function pacedBandwidth(remainingBytes: number): number {
  return 10 * Math.max(PACED_BYTES_MIN, 2 * remainingBytes);
}

function goalBytes(mbps: number): number {
  return Math.max(TAIL_BYTES_MIN, ((mbps * 1e6) / 8 / 1000) * TAIL_GOAL_MS);
}

function judge(
  remaining: number,
  { pass, mbps, before }: { pass: number; mbps: number; before: Round | undefined },
): Round {
  const goal = goalBytes(mbps);
  const isStuck = pass > 3 && before !== undefined && remaining > before.remainingBytes * SHRINK_RATIO;
  // A paced pass leaves what a tenth of a second makes dirty: more than one that followed at once.
  const factor = before?.converged === true ? 4 : 1;
  const converged = remaining <= factor * goal || isStuck || pass >= ROUNDS_MAX;
  return { round: pass - 1, remainingBytes: remaining, converged };
}

/** A migration that an earlier process of ours began: its stream leads nowhere. */
export async function endEarlier(client: QmpClient): Promise<void> {
  for (;;) {
    const { status } = await client.execute("query-migrate");
    const isOver =
      status === undefined || ["none", "completed", "cancelled", "failed"].includes(status as string);
    if (isOver) return;
    if (status !== "cancelling" && status !== "setup") await client.execute("migrate_cancel");
    await pause(EARLIER_POLL_MS);
  }
}

/** A cancelled migration has let the guest go on already; one that was completed has not. */
async function goOn(client: QmpClient): Promise<void> {
  const { running } = await client.execute("query-status");
  if (!running) await client.execute("cont");
}

function badState(operation: string, state: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_BAD_STATE", operation, state });
}
