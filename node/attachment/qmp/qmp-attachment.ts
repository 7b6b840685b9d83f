/**
 * The `qmp` attachment: QEMU has the domain's vbds on their files or devices itself, and our NBD export is in
 * the path of the I/O for a window only.
 *
 *                     beginWindow: pivot to our exports, harvest, forget the tracker
 *     native ───────────────────────────────────────────────────────────────────────▶ window
 *     QEMU's dirty bitmaps                                          an NbdAttachment:
 *     track, our logs name  ◀─────────────────────────────────────  our server tracks
 *     them as their owner     endWindow: begin a tracker, name it,
 *                             pivot to the native paths
 *
 * In a window everything is as with the `nbd` attachment, exact and durable: rounds, the fence, post-copy. It
 * is in a window that QEMU starts, is migrated, and ends.
 *
 * Outside of one QEMU's bitmaps alone know what the guest writes, and they end with QEMU. So before the pivot
 * each vbd's dirty log is given to the tracker, durably, and it is nobody's again only after the bitmaps were
 * added to it. Whoever opens a log whose tracker is gone (QEMU was killed, the host lost power) is told that it
 * cannot be believed, and the ladder's hash rung follows. At every instant of a pivot there is a tracker that sees
 * each write: for a while both do.
 */

import { statSync } from "node:fs";
import { BlockBitmap } from "../../../protocol/block-bitmap.ts";
import { assert } from "../../../protocol/errors.ts";
import type { VbdIndex } from "../../../protocol/messages.ts";
import { type BlockRun, blockCountOf, type Generation } from "../../../protocol/units.ts";
import type { BlockStore } from "../../../storage/block-store.ts";
import type { Log } from "../../log.ts";
import type { BlockNodeInfo } from "../../qmp/commands.ts";
import { QmpError } from "../../qmp/errors.ts";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import type { QmpConnections, QmpLease } from "../../qmp/qmp-connections.ts";
import { childNode, exportOptions, nativeOptions, vbdNode } from "../../qmp/vbd-nodes.ts";
import type { ArrivalCounts, ArrivedBlocks, Attachment, FencedWrites, WrittenBlocks } from "../attachment.ts";
import { NbdAttachment, type NbdAttachmentOptions } from "../nbd-attachment.ts";
import { DirtyTracker, nodesOf, trackersOf } from "./dirty-tracker.ts";
import { addHarvest, NativeVbds, refuseResized } from "./native-vbds.ts";
import { busyError, type Pivot, pivot } from "./pivot.ts";

export type QmpAttachmentOptions = NbdAttachmentOptions & {
  connections: Pick<QmpConnections, "acquire">;
  /** Of the domain's QEMU, whether it runs or not. */
  qmpPath: string;
  /** Where QEMU reaches our exports. */
  nbdSocketPath: string;
  /** Where QEMU may make a socket for a moment. */
  socketFolder: string;
  log: Log;
  /** How often the bitmaps are added to the logs outside of a window; never when undefined. */
  harvestEveryMs?: number;
};

type Mode = { kind: "window"; window: NbdAttachment } | { kind: "native"; native: NativeVbds };

/** QEMU's run states in which the guest's nodes are its own to exchange: no migration is under way. */
const SETTLED = ["running", "paused", "prelaunch", "suspended", "io-error", "debug"];

export class QmpAttachment implements Attachment {
  readonly generation: Generation;
  readonly #options: QmpAttachmentOptions;
  readonly #nodes: readonly string[];
  #mode: Mode;
  #lease: QmpLease | undefined;
  /** Somebody needs the window, until `endWindow` or `stopRounds`. */
  #isHeld = false;
  #isFenced = false;
  /** Per vbd: why what was written is not known. Outlives the window in which it was found. */
  #doubts: readonly (string | undefined)[] = [];
  #counts: ArrivalCounts = { pushed: 0, pulled: 0, superseded: 0, late: 0 };
  #turn: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;
  #harvesting: NodeJS.Timeout | undefined;

  private constructor(options: QmpAttachmentOptions, window: NbdAttachment) {
    this.generation = options.generation;
    this.#options = options;
    this.#nodes = options.vbds.map((_, index) => vbdNode(index));
    this.#isFenced = options.fenced === true;
    this.#mode = { kind: "window", window };
    if (options.harvestEveryMs !== undefined) {
      this.#harvesting = setInterval(() => this.#later(() => this.#harvest()), options.harvestEveryMs);
      this.#harvesting.unref();
    }
  }

  /**
   * Exports every vbd, or none, and takes over from a QEMU that runs already: its guest's I/O comes to us, and
   * what its bitmaps know is harvested. The window ends by itself where nothing needs it.
   * Throws as `NbdAttachment.open`, VBD_RESIZED, QMP_UNREACHABLE when somebody else holds QEMU's socket.
   */
  static async open(options: QmpAttachmentOptions): Promise<QmpAttachment> {
    refuseResized(options.vbds);
    const lease = await acquire(options);
    const names = options.vbds.map((_, index) => vbdNode(index));
    let window: NbdAttachment | undefined;
    try {
      const asked = lease === undefined ? Promise.resolve([]) : nodesOf(lease.client, names);
      asked.catch(() => undefined);
      // Behind a fence there is a QEMU that has just been started: it has tracked nothing, and may be busy.
      const trackers = options.fenced === true ? [] : trackersOf(await asked);
      let attachment: QmpAttachment | undefined;
      const { incoming } = options;
      const complete = (): void => {
        incoming?.complete();
        if (attachment !== undefined) attachment.#relax();
      };
      window = await NbdAttachment.open({
        ...options,
        trackers,
        ...(incoming === undefined ? {} : { incoming: { ...incoming, complete } }),
      });
      attachment = new QmpAttachment(options, window);
      const isResumed = lease === undefined || (await attachment.#takeOver(lease, window, await asked));
      if (isResumed) attachment.#relax();
      return attachment;
    } catch (error) {
      lease?.release();
      await window?.close();
      throw error;
    }
  }

  // The window.

  /** Whether QEMU reaches the vbds without us. */
  get isNative(): boolean {
    return this.#mode.kind === "native";
  }

  get way(): string {
    return this.isNative ? "qmp, native" : "qmp, in a window";
  }

  beginWindow(): Promise<void> {
    this.#isHeld = true;
    return this.#exclusive(() => this.#beginWindow());
  }

  endWindow(): Promise<void> {
    this.#isHeld = false;
    return this.#exclusive(() => this.#endWindow());
  }

  harvest(): Promise<void> {
    return this.#exclusive(() => this.#harvest());
  }

  async #beginWindow(): Promise<void> {
    if (this.#closing !== undefined) return;
    // In a window already; a QEMU that was started, or lost, since we looked last must be too.
    if (this.#mode.kind === "window") return void (await this.#connect());
    const { native } = this.#mode;
    refuseResized(this.#options.vbds);
    const qmp = await this.#connect();
    if (qmp === undefined) return this.#windowAfterDeath(native);
    // What is left to flush the pivot flushes, while the guest waits.
    await native.flush();
    const { incoming: _incoming, fenced: _fenced, ...options } = this.#options;
    const window = await NbdAttachment.open({ ...options, trackers: [native.tracker.id] });
    try {
      await pivot(qmp, this.#toExports());
    } catch (error) {
      await window.close();
      throw error;
    }
    this.#mode = { kind: "window", window };
    await this.#settle(qmp, window, native.tracker);
    await native.close();
  }

  async #endWindow(): Promise<void> {
    if (this.#mode.kind === "native" || this.#isNeeded(this.#mode.window)) return;
    if (this.#closing !== undefined) return;
    await this.#endWindowOf(this.#mode.window);
  }

  async #endWindowOf(window: NbdAttachment): Promise<void> {
    refuseResized(this.#options.vbds);
    const qmp = await this.#connect();
    if (qmp === undefined || !SETTLED.includes((await qmp.execute("query-status")).status)) return;
    const tracker = await DirtyTracker.begin(qmp, this.generation, this.#trackerOptions());
    let native: NativeVbds | undefined;
    try {
      // All that can fail comes before the pivot.
      native = new NativeVbds(this.#options.vbds, tracker);
      await window.setTracker(tracker.id);
      await window.flush();
      await pivot(qmp, this.#toNative());
    } catch (error) {
      await native?.close();
      await this.#settle(qmp, window, tracker);
      const paths = this.#options.vbds.map(({ path }) => path);
      throw busyError(error, paths);
    }
    native.written = window.written();
    this.#mode = { kind: "native", native };
    this.#counts = window.counts();
    this.#doubts = window.untrusted().map((doubt, vbd) => doubt ?? this.#doubts[vbd]);
    await window.close();
  }

  #isNeeded(window: NbdAttachment): boolean {
    if (this.#isHeld || this.#isFenced || this.#nodes.length === 0) return true;
    return window.missing().some(({ population }) => population > 0);
  }

  /** Ends the window where nothing needs it. One that cannot end is slower, and not less safe. */
  #relax(): void {
    this.#later(() => this.#endWindow());
  }

  /** QEMU is on our exports: what the tracker saw goes into the logs, which are nobody's afterwards. */
  async #settle(qmp: QmpClient, window: NbdAttachment, tracker: DirtyTracker): Promise<void> {
    try {
      await window.addWritten(await tracker.look(qmp));
    } catch (error) {
      const reason = `QEMU's dirty bitmap was lost: ${messageOf(error)}`;
      this.#options.log.warn("a vbd's tracking is uncertain", { generation: this.generation, reason });
      await window.distrust(reason);
    }
    await window.setTracker("");
    await tracker.drop(qmp).catch(() => undefined);
  }

  // QEMU.

  /**
   * In a window, with a QEMU that we had no connection to: its guest's I/O comes to us from then on. False when
   * it waits to be resumed, on placeholders that are the hypervisor's to exchange.
   */
  async #takeOver(lease: QmpLease, window: NbdAttachment, nodes: readonly BlockNodeInfo[]): Promise<boolean> {
    this.#watch(lease);
    const qmp = lease.client;
    const children = nodes.map(({ file }) => file);
    const isOnExports = children.every((file, vbd) => file.includes(this.#options.vbds[vbd]!.exportName));
    const isPlaceholder = children.every((file) => file.includes('"null-co"'));
    const isNative = !isOnExports && !isPlaceholder;
    if (isNative) await pivot(qmp, this.#toExports());
    const owners = new Set(window.trackers());
    if (isNative && owners.has("")) await window.distrust("QEMU had it itself, and nothing tracked it");
    for (const id of trackersOf(nodes)) {
      const tracker = new DirtyTracker(id, this.#trackerOptions());
      if (owners.has(id)) await this.#settle(qmp, window, tracker);
      else await tracker.drop(qmp);
    }
    return !isPlaceholder;
  }

  async #connect(): Promise<QmpClient | undefined> {
    if (this.#lease !== undefined && !this.#lease.client.isClosed) return this.#lease.client;
    const lease = await acquire(this.#options);
    if (lease === undefined) return undefined;
    const { client } = lease;
    if (this.#mode.kind === "native") this.#watch(lease);
    else await this.#takeOver(lease, this.#mode.window, await nodesOf(client, this.#nodes));
    return client;
  }

  #watch(lease: QmpLease): void {
    this.#lease = lease;
    const { client } = lease;
    client.onEvent(({ event }) => {
      if (event === "RESUME") this.#relax();
      // QEMU may end next, and its bitmaps with it.
      if (event === "SHUTDOWN") this.#later(() => this.#beginWindow());
    });
    client.onLoss(() => {
      lease.release();
      if (this.#lease === lease) this.#lease = undefined;
      this.#later(() => this.#lost());
    });
  }

  /** The connection ended. When QEMU did too, whoever starts it anew finds our exports. */
  async #lost(): Promise<void> {
    if (this.#mode.kind === "window" || this.#closing !== undefined) return;
    const { native } = this.#mode;
    const qmp = await this.#connect();
    if (qmp === undefined) await this.#windowAfterDeath(native);
    else if (!(await native.tracker.isRecording(qmp))) await this.#beginWindow();
  }

  /** The logs name a tracker that is gone: opening them finds them untrusted. */
  async #windowAfterDeath(native: NativeVbds): Promise<void> {
    const { incoming: _incoming, fenced: _fenced, ...options } = this.#options;
    const window = await NbdAttachment.open(options);
    this.#mode = { kind: "window", window };
    await native.close();
    const reason = window.untrusted().find((one) => one !== undefined);
    this.#options.log.warn("QEMU ended outside of a window", { generation: this.generation, reason });
  }

  async #harvest(): Promise<void> {
    if (this.#mode.kind === "window" || this.#closing !== undefined) return;
    const { native } = this.#mode;
    const qmp = await this.#connect();
    if (qmp === undefined) return;
    if (!(await native.tracker.isRecording(qmp))) {
      await this.#beginWindow();
      return this.#endWindow();
    }
    const { written, forget } = await native.tracker.harvest(qmp);
    const known: BlockBitmap[] = [];
    for (const [vbd, bitmap] of written.entries()) {
      const harvest = { tracker: native.tracker.id, written: bitmap };
      known.push(await addHarvest(this.#options.vbds[vbd]!, harvest, this.#options));
    }
    native.written = known;
    await forget();
  }

  #toExports(): Pivot[] {
    const { vbds, nbdSocketPath: socketPath } = this.#options;
    return vbds.map(({ exportName }, index) => {
      const name = childNode(this.#nodes[index]!);
      const child = { ...exportOptions(name, { socketPath, exportName }), "node-name": name };
      return { node: this.#nodes[index]!, child };
    });
  }

  #toNative(): Pivot[] {
    return this.#options.vbds.map(({ path }, index) => {
      const name = childNode(this.#nodes[index]!);
      const isDevice = statSync(path).isBlockDevice();
      return {
        node: this.#nodes[index]!,
        child: { ...nativeOptions(name, { path, isDevice }), "node-name": name },
      };
    });
  }

  #trackerOptions(): { nodes: readonly string[]; socketFolder: string } {
    return { nodes: this.#nodes, socketFolder: this.#options.socketFolder };
  }

  // As a migration sees it.

  startRounds(): readonly WrittenBlocks[] {
    return this.#window()
      .startRounds()
      .map(({ written, untrusted }, vbd) => {
        return untrusted === undefined ? { written } : { written, untrusted: this.#doubts[vbd] ?? untrusted };
      });
  }

  takeRound(): readonly BlockBitmap[] {
    return this.#window().takeRound();
  }

  stopRounds(): void {
    if (this.#mode.kind === "window") this.#mode.window.stopRounds();
    this.#isHeld = false;
    this.#relax();
  }

  throttleWrites(share: number): void {
    this.#window().throttleWrites(share);
  }

  async fence(): Promise<FencedWrites> {
    this.#isFenced = true;
    return this.#window().fence();
  }

  unfence(): void {
    this.#isFenced = false;
    if (this.#mode.kind === "window") this.#mode.window.unfence();
  }

  store(vbd: VbdIndex): BlockStore {
    return this.#mode.kind === "window" ? this.#mode.window.store(vbd) : this.#mode.native.stores[vbd]!;
  }

  /** Outside of a window: of what QEMU has written by then. */
  async flush(): Promise<void> {
    await (this.#mode.kind === "window" ? this.#mode.window.flush() : this.#mode.native.flush());
  }

  written(): readonly BlockBitmap[] {
    if (this.#mode.kind === "window") return this.#mode.window.written();
    return this.#mode.native.written.map((bitmap) => bitmap.clone());
  }

  missing(): readonly BlockBitmap[] {
    if (this.#mode.kind === "window") return this.#mode.window.missing();
    return this.#options.vbds.map(({ sizeBytes }) => new BlockBitmap(blockCountOf(sizeBytes)));
  }

  counts(): ArrivalCounts {
    return this.#mode.kind === "window" ? this.#mode.window.counts() : { ...this.#counts };
  }

  async arrive(vbd: VbdIndex, blocks: ArrivedBlocks): Promise<void> {
    // Native: nothing is missing, so whatever arrives is late.
    if (this.#mode.kind === "window") await this.#mode.window.arrive(vbd, blocks);
  }

  waitedFor(): readonly { vbd: VbdIndex; runs: readonly BlockRun[] }[] {
    return this.#mode.kind === "window" ? this.#mode.window.waitedFor() : [];
  }

  /** A QEMU that is on its native paths goes on there, and whoever opens the vbds next finds its bitmaps. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    clearInterval(this.#harvesting);
    await this.#exclusive(async () => {
      if (this.#mode.kind === "window") await this.#leaveToQemu(this.#mode.window);
      if (this.#mode.kind === "window") await this.#mode.window.close();
      else await this.#mode.native.close();
    });
    this.#lease?.release();
  }

  /** A guest that runs need not wait until we are back. */
  async #leaveToQemu(window: NbdAttachment): Promise<void> {
    const isWhole = window.missing().every(({ population }) => population === 0);
    if (this.#isFenced || !isWhole || this.#lease === undefined || this.#lease.client.isClosed) return;
    window.stopRounds();
    await this.#endWindowOf(window).catch((error: unknown) => this.#warn(error));
  }

  #window(): NbdAttachment {
    assert(this.#mode.kind === "window", "a vbd is migrated in a window only");
    return this.#mode.window;
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work, work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  #later(work: () => Promise<void>): void {
    if (this.#closing !== undefined) return;
    void this.#exclusive(work).catch((error: unknown) => {
      // `#lost` looks what became of it.
      if (!(error instanceof QmpError) || error.code !== "QMP_CLOSED") this.#warn(error);
    });
  }

  #warn(error: unknown): void {
    const reason = messageOf(error);
    this.#options.log.warn("a vbd's window could not be changed", { generation: this.generation, reason });
  }
}

/** Undefined when there is no QEMU. Throws QMP_UNREACHABLE when there is one that does not answer us. */
async function acquire({ connections, qmpPath }: QmpAttachmentOptions): Promise<QmpLease | undefined> {
  try {
    return await connections.acquire(qmpPath);
  } catch (error) {
    if (error instanceof QmpError && error.detail.code === "QMP_UNREACHABLE" && error.detail.isAbsent) {
      return undefined;
    }
    throw error;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
