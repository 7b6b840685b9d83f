/** A host's vbds as its daemon opens them: the real tracked and missing stores and logs on simulated files. */
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import type { PostCopyCounts, SourceMessage } from "../../protocol/messages.ts";
import { type BlockRun, blockCountOf, byteRangeOf, type Generation } from "../../protocol/units.ts";
import type { BlockStore } from "../../storage/block-store.ts";
import { DirtyLog } from "../../storage/dirty-log.ts";
import { MissingBlockStore } from "../../storage/missing-block-store.ts";
import { PresenceLog } from "../../storage/presence-log.ts";
import { TrackedBlockStore } from "../../storage/tracked-block-store.ts";
import { type DiskFaults, SimBlockStore, SimByteFile, SimFile, type StoreOptions } from "./disk.ts";
import type { Process } from "./process.ts";

/** The files of one host, of this boot. */
export type HostFiles = { files: Map<string, SimFile>; bootId: string };

export type VbdParts = {
  process: Process;
  host: HostFiles;
  faults: DiskFaults;
  sizes: readonly number[];
  store: StoreOptions;
  regionBlocks: number;
  activeRegionsMax: number;
};

export function imageOf(host: HostFiles, vbd: number): SimFile | undefined {
  return host.files.get(`vbd-${vbd}`);
}

export function makeImages(host: HostFiles, sizes: readonly number[]): void {
  for (const [vbd, sizeBytes] of sizes.entries()) {
    if (imageOf(host, vbd) === undefined) host.files.set(`vbd-${vbd}`, new SimFile(sizeBytes));
  }
}

/** The copies' bytes, which no guest can reach. */
export function openImages(parts: VbdParts): SimBlockStore[] {
  const { host, process, faults, sizes, store } = parts;
  return sizes.map((_, vbd) => new SimBlockStore(imageOf(host, vbd)!, process, faults, store));
}

function openFile({ host, process, faults }: VbdParts, name: string): SimByteFile {
  let file = host.files.get(name);
  if (file === undefined) host.files.set(name, (file = new SimFile(0)));
  return new SimByteFile(file, process, faults);
}

type LogIdentity = { vbd: number; generation: Generation };

function dirtyLogOptions(parts: VbdParts, { vbd, generation }: LogIdentity) {
  const { host, regionBlocks, activeRegionsMax, sizes } = parts;
  const blockCount = blockCountOf(sizes[vbd]!);
  return { blockCount, generation, bootId: host.bootId, regionBlocks, activeRegionsMax };
}

export async function createDirtyLogs(parts: VbdParts, generation: Generation): Promise<void> {
  for (const vbd of parts.sizes.keys()) {
    const file = openFile(parts, `dirty-${vbd}`);
    const log = await DirtyLog.create(file, dirtyLogOptions(parts, { vbd, generation }));
    await log.close({ clean: false });
  }
}

export async function createPresenceLogs(
  parts: VbdParts,
  options: { generation: Generation; migration: string; missing: readonly BlockBitmap[] },
): Promise<void> {
  const { generation, migration, missing } = options;
  const { bootId } = parts.host;
  for (const [vbd, blocks] of missing.entries()) {
    const file = openFile(parts, `presence-${vbd}`);
    const log = await PresenceLog.create(file, { generation, migration, bootId, missing: blocks });
    await log.close();
  }
}

type Blocks = Extract<SourceMessage, { type: "blocks" }>;

/** What arrives before the handover: newer than what is there, by the order of the source's stream. */
export async function storeArrival(store: BlockStore, { runs, zeroes, data }: Blocks): Promise<void> {
  let from = 0;
  for (const run of runs) {
    const { offset, length } = byteRangeOf(run, store.sizeBytes);
    await store.write(offset, data.subarray(from, from + length));
    from += length;
  }
  for (const run of zeroes) {
    const { offset, length } = byteRangeOf(run, store.sizeBytes);
    await store.writeZeroes(offset, length, { mayUnmap: true });
  }
}

type Stack = {
  tracked: TrackedBlockStore;
  missing: MissingBlockStore | undefined;
  untrusted: string | undefined;
};

export type Incoming = {
  migration: string;
  pull: (vbd: number, runs: readonly BlockRun[]) => void;
  complete: () => void;
};

/** The vbds of a domain that is this host's, as its guest reaches them. */
export class GuestVbds {
  readonly generation: Generation;
  readonly #stacks: readonly Stack[];
  #fenceCount = 0;
  #isTracking = false;

  private constructor(generation: Generation, stacks: readonly Stack[]) {
    this.generation = generation;
    this.#stacks = stacks;
  }

  static async open(
    parts: VbdParts,
    options: { generation: Generation; incoming?: Incoming },
  ): Promise<GuestVbds> {
    const { generation, incoming } = options;
    const stacks: Stack[] = [];
    for (const [vbd, image] of openImages(parts).entries()) {
      const { log, untrusted } = await openDirtyLog(parts, { vbd, generation });
      let missing: MissingBlockStore | undefined;
      if (incoming !== undefined) {
        const presence = await PresenceLog.open(openFile(parts, `presence-${vbd}`), {
          generation,
          migration: incoming.migration,
          bootId: parts.host.bootId,
          blockCount: log.blockCount,
        });
        missing = new MissingBlockStore({
          store: image,
          presence,
          pull: (runs) => incoming.pull(vbd, runs),
          onComplete: () => {
            if (stacks.every((stack) => stack.missing?.missing.population === 0)) incoming.complete();
          },
        });
      }
      const tracked = new TrackedBlockStore({ store: missing ?? image, log });
      stacks.push({ tracked, missing, untrusted });
    }
    return new GuestVbds(generation, stacks);
  }

  store(vbd: number): BlockStore {
    return this.#stacks[vbd]!.tracked;
  }

  written(vbd: number): BlockBitmap {
    return this.#stacks[vbd]!.tracked.written;
  }

  startRounds(): { written: BlockBitmap; untrusted?: string }[] {
    this.#isTracking = true;
    return this.#stacks.map(({ tracked, untrusted }) => {
      tracked.startRound();
      const written = tracked.written.clone();
      return untrusted === undefined ? { written } : { written, untrusted };
    });
  }

  stopRounds(): void {
    this.#isTracking = false;
    for (const { tracked } of this.#stacks) tracked.stopRound();
  }

  takeRound(): BlockBitmap[] {
    return this.#stacks.map(({ tracked }) => tracked.takeRound());
  }

  /** A fence that was undone before it was complete takes no round: its writes belong to the next. */
  async fence(): Promise<{ dirty: BlockBitmap[]; written: BlockBitmap[] }> {
    const fence = ++this.#fenceCount;
    await Promise.all(this.#stacks.map(({ tracked }) => tracked.fence()));
    await this.flush();
    const isCurrent = fence === this.#fenceCount && this.#isTracking;
    const written = this.#stacks.map(({ tracked }) => tracked.written.clone());
    return { dirty: isCurrent ? this.takeRound() : written.map(noneOf), written };
  }

  unfence(): void {
    this.#fenceCount += 1;
    for (const { tracked } of this.#stacks) tracked.unfence();
  }

  async flush(): Promise<void> {
    await Promise.all(this.#stacks.map(({ tracked }) => tracked.flush()));
  }

  missing(): BlockBitmap[] {
    return this.#stacks.map(({ tracked, missing }) => missing?.missing.clone() ?? noneOf(tracked.written));
  }

  get isNothingMissing(): boolean {
    return this.#stacks.every(({ missing }) => missing === undefined || missing.missing.population === 0);
  }

  waitedFor(): { vbd: number; runs: readonly BlockRun[] }[] {
    return this.#stacks
      .map(({ missing }, vbd) => ({ vbd, runs: missing?.requestedAgain() ?? [] }))
      .filter(({ runs }) => runs.length > 0);
  }

  async arrive(message: Blocks): Promise<void> {
    // Without a store that misses blocks, whatever arrives is late.
    await this.#stacks[message.vbd]!.missing?.arrive(message.runs, message.zeroes, message.data);
  }

  counts(): PostCopyCounts {
    const counts = { pushed: 0, pulled: 0, superseded: 0, late: 0 };
    for (const { missing } of this.#stacks) {
      if (missing === undefined) continue;
      counts.pushed += missing.counts.pushed;
      counts.pulled += missing.counts.pulled;
      counts.superseded += missing.counts.superseded;
      counts.late += missing.counts.late;
    }
    return counts;
  }
}

function noneOf({ blockCount }: BlockBitmap): BlockBitmap {
  return new BlockBitmap(blockCount);
}

/** A tracker that cannot be trusted says that every block was written. */
async function openDirtyLog(
  parts: VbdParts,
  identity: LogIdentity,
): Promise<{ log: DirtyLog; untrusted: string | undefined }> {
  const { vbd } = identity;
  const options = dirtyLogOptions(parts, identity);
  const file = openFile(parts, `dirty-${vbd}`);
  const opening = await DirtyLog.open(file, options);
  if (opening.trusted) return { log: opening.log, untrusted: undefined };
  const log = await DirtyLog.create(file, options, BlockBitmap.full(options.blockCount));
  return { log, untrusted: opening.reason };
}
