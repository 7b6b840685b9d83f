/**
 * A store whose operations end when the test says so, and how: done, failed half way, or lost with the power.
 *
 * Contents are units of 2 KiB (half a block), each a single number; operations are aligned to them.
 */

import type { BlockStore, Completion, Extent } from "../../storage/block-store.ts";
import { StorageError } from "../../storage/errors.ts";
import type { Random } from "./random.ts";

export const UNIT_BYTES = 2048;

/** Bytes of units that hold these numbers. */
export function unitsAsBytes(values: readonly number[]): Uint8Array {
  const bytes = Buffer.alloc(values.length * UNIT_BYTES);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value, index * UNIT_BYTES);
  return bytes;
}

export function bytesAsUnits(bytes: Uint8Array): number[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / UNIT_BYTES }, (_, index) =>
    buffer.readUInt32LE(index * UNIT_BYTES),
  );
}

type Pending = { kind: string; offset: number; complete: () => void; fail: () => void };

export class ManualBlockStore implements BlockStore {
  readonly sizeBytes: number;
  readonly #random: Random;
  /** Chance that an operation completes in the call. */
  readonly #atOnce: number;
  /** Per unit: what was last flushed, and each value since. The last one is what a read finds. */
  #versions: { value: number; at: number }[][];
  #clock = 0;
  readonly pending: Pending[] = [];
  /** Called when a write of any kind is issued. */
  onIssue: (offset: number, length: number) => void = () => {};
  closed = false;

  constructor(random: Random, options: { values: readonly number[]; atOnce: number }) {
    this.#random = random;
    this.#atOnce = options.atOnce;
    this.#versions = options.values.map((value) => [{ value, at: 0 }]);
    this.sizeBytes = options.values.length * UNIT_BYTES;
  }

  get values(): number[] {
    return this.#versions.map((versions) => versions.at(-1)!.value);
  }

  /** What the next boot finds: of each unit any version since the last flush. */
  valuesAfterPowerLoss(): number[] {
    return this.#versions.map((versions) => this.#random.pick(versions).value);
  }

  /** The same disk under the next process: what was under way is done, half done or not begun. */
  afterKill(): ManualBlockStore {
    for (const operation of this.pending.splice(0)) {
      if (operation.kind === "flush" || this.#random.chance(0.3)) continue;
      if (this.#random.chance(0.5)) operation.complete();
      else operation.fail();
    }
    const next = new ManualBlockStore(this.#random, { values: [], atOnce: this.#atOnce });
    next.#versions = this.#versions;
    next.#clock = this.#clock;
    return Object.assign(next, { sizeBytes: this.sizeBytes });
  }

  read(offset: number, target: Uint8Array): Completion {
    const apply = (): void => {
      const first = offset / UNIT_BYTES;
      target.set(unitsAsBytes(this.values.slice(first, first + target.length / UNIT_BYTES)));
    };
    return this.#operate("read", offset, apply, () => {});
  }

  write(offset: number, data: Uint8Array): Completion {
    this.onIssue(offset, data.length);
    // Read late, as a thread would: the buffer is ours until the operation completes.
    return this.#operate(
      "write",
      offset,
      () => this.#set(offset, bytesAsUnits(data)),
      () => this.#set(offset, bytesAsUnits(data).slice(0, this.#random.below(data.length / UNIT_BYTES + 1))),
    );
  }

  writeZeroes(offset: number, length: number, _options: { mayUnmap: boolean }): Completion {
    this.onIssue(offset, length);
    const zeroes = new Array<number>(length / UNIT_BYTES).fill(0);
    return this.#operate(
      "writeZeroes",
      offset,
      () => this.#set(offset, zeroes),
      () => this.#set(offset, zeroes.slice(0, this.#random.below(zeroes.length + 1))),
    );
  }

  /** Forgets nothing: the least that a trim may do. */
  trim(offset: number, length: number): Completion {
    this.onIssue(offset, length);
    return this.#operate(
      "trim",
      offset,
      () => {},
      () => {},
    );
  }

  flush(): Completion {
    const begun = this.#clock;
    const apply = (): void => {
      for (const versions of this.#versions) {
        const flushed = versions.findLastIndex(({ at }) => at <= begun);
        versions.splice(0, flushed);
      }
    };
    return this.#operate("flush", 0, apply, () => {});
  }

  extents(_offset: number, _length: number): readonly Extent[] | undefined {
    return undefined;
  }

  async close(): Promise<void> {
    this.closed = true;
    while (this.pending.length > 0) this.completeAny();
  }

  completeAny(): void {
    if (this.pending.length > 0) this.#take().complete();
  }

  failAny(): void {
    if (this.pending.length > 0) this.#take().fail();
  }

  #take(): Pending {
    return this.pending.splice(this.#random.below(this.pending.length), 1)[0]!;
  }

  #operate(kind: string, offset: number, apply: () => void, applyPart: () => void): Completion {
    if (this.#random.chance(this.#atOnce)) return apply();
    return new Promise((resolve, reject) => {
      const complete = (): void => {
        apply();
        resolve();
      };
      const fail = (): void => {
        applyPart();
        reject(new StorageError({ code: "STORAGE_IO", operation: kind, reason: "as the test said" }));
      };
      this.pending.push({ kind, offset, complete, fail });
    });
  }

  #set(offset: number, values: readonly number[]): void {
    const at = ++this.#clock;
    for (const [index, value] of values.entries()) {
      this.#versions[offset / UNIT_BYTES + index]!.push({ value, at });
    }
  }
}
