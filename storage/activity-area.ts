/**
 * Which coarse regions of a vbd have writes that the fine map does not durably know of yet, as sectors of a file.
 *
 *     0                      504         508      512
 *    +----------------------+-----------+--------+
 *    | 126 × (region + 1)   | generation| crc32  |   × 8; an empty slot is 0; integers are little-endian
 *    +----------------------+-----------+--------+
 *
 * Every sector stands for itself: a disk that loses power writes each wholly or not at all.
 */

import { crc32 } from "node:zlib";
import type { ByteFile } from "./byte-file.ts";

const SECTOR_BYTES = 512;
const SECTORS = 8;
const SLOTS_PER_SECTOR = 126;
const GENERATION_AT = 504;
const SUM_AT = 508;

export const ACTIVITY_AREA_BYTES = SECTORS * SECTOR_BYTES;
export const ACTIVITY_SLOTS_MAX = SECTORS * SLOTS_PER_SECTOR;

export class ActivityArea {
  readonly #file: ByteFile;
  readonly #offset: number;
  readonly #slots = new Uint32Array(ACTIVITY_SLOTS_MAX);

  constructor(file: ByteFile, options: { offset: number }) {
    this.#file = file;
    this.#offset = options.offset;
  }

  /** The regions of all sectors; undefined when one of them is damaged or of another generation. */
  load(generation: number): Set<number> | undefined {
    const regions = new Set<number>();
    const bytes = Buffer.alloc(ACTIVITY_AREA_BYTES);
    this.#file.pread(this.#offset, bytes);
    for (let sector = 0; sector < SECTORS; sector++) {
      const part = bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
      if (part.readUInt32LE(SUM_AT) !== crc32(part.subarray(0, SUM_AT))) return undefined;
      if (part.readUInt32LE(GENERATION_AT) !== generation >>> 0) return undefined;
      for (let slot = 0; slot < SLOTS_PER_SECTOR; slot++) {
        const value = part.readUInt32LE(slot * 4);
        if (value !== 0) regions.add(value - 1);
      }
    }
    return regions;
  }

  /** In memory only, until `store`. */
  set(slot: number, region: number | undefined): void {
    this.#slots[slot] = region === undefined ? 0 : region + 1;
  }

  clear(): void {
    this.#slots.fill(0);
  }

  /** Writes all sectors; not durable yet. */
  store(generation: number): void {
    const bytes = Buffer.alloc(ACTIVITY_AREA_BYTES);
    for (let sector = 0; sector < SECTORS; sector++) {
      const part = bytes.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
      for (let slot = 0; slot < SLOTS_PER_SECTOR; slot++) {
        part.writeUInt32LE(this.#slots[sector * SLOTS_PER_SECTOR + slot]!, slot * 4);
      }
      part.writeUInt32LE(generation >>> 0, GENERATION_AT);
      part.writeUInt32LE(crc32(part.subarray(0, SUM_AT)), SUM_AT);
    }
    this.#file.pwrite(this.#offset, bytes);
  }
}
