// The request ring and what follows from an answer.

import * as L from "../layout";
import { count, dirty, get, get64, recordError, set, set64, slotAt, vbdAt } from "./state";
import { hashBlock, isStamped, isZero, nameWord, nextCounter, stampSector } from "./stamp";

// @ts-ignore: decorator
@inline export function bufferOf(slot: u32): usize { return L.BUFFERS + slot * L.CHUNK_BYTES; }

/** The first sector on the vbd of a chunk of the working set. */
// @ts-ignore: decorator
@inline export function firstSector(vbd: u32, chunk: u32): u64 {
  return (chunk as u64) * (get(vbdAt(vbd) + L.V_STRIDE) as u64) * L.SECTORS_PER_CHUNK;
}

/** How many sectors of a chunk exist: the vbd's last chunk may be short. */
export function sectorsOf(vbd: u32, chunk: u32): u32 {
  const total = get64(vbdAt(vbd) + L.V_SIZE_BYTES) / L.SECTOR_BYTES;
  return min<u64>(L.SECTORS_PER_CHUNK, total - firstSector(vbd, chunk)) as u32;
}

// @ts-ignore: decorator
@inline export function sectorState(vbd: u32, chunk: u32, sector: u32): usize {
  return (get(vbdAt(vbd) + L.V_TABLE) as usize) + ((chunk as usize) * L.SECTORS_PER_CHUNK + sector) * 2;
}

// @ts-ignore: decorator
@inline function isBusy(slot: u32): bool {
  const state = get(slotAt(slot) + L.R_STATE);
  return state != L.SLOT_FREE;
}

/** The lowest free slot: reusing few buffers keeps few pages dirty. SLOTS_MAX when there is none. */
export function freeSlot(): u32 {
  let slot: u32 = 0;
  while (slot < L.SLOTS_MAX && isBusy(slot)) slot++;
  return slot;
}

export function inFlight(purpose: u32): u32 {
  let n: u32 = 0;
  for (let slot: u32 = 0; slot < L.SLOTS_MAX; slot++) {
    if (isBusy(slot) && get(slotAt(slot) + L.R_PURPOSE) == purpose) n++;
  }
  return n;
}

export function anyInFlight(): bool {
  for (let slot: u32 = 0; slot < L.SLOTS_MAX; slot++) if (isBusy(slot)) return true;
  return false;
}

/** Whether a new request would meet one in flight on the same blocks, and either of them changes them. */
export function conflicts(op: u32, vbd: u32, chunk: u32, sector: u32, sectors: u32): bool {
  const first = sector & ~(L.SECTORS_PER_BLOCK - 1);
  const end = (sector + sectors + L.SECTORS_PER_BLOCK - 1) & ~(L.SECTORS_PER_BLOCK - 1);
  for (let slot: u32 = 0; slot < L.SLOTS_MAX; slot++) {
    const at = slotAt(slot);
    if (!isBusy(slot) || get(at + L.R_VBD) != vbd || get(at + L.R_OP) == L.OP_FLUSH) continue;
    if (op == L.OP_READ && get(at + L.R_OP) == L.OP_READ) continue;
    if (get(at + L.R_CHUNK) != chunk) continue;
    const otherFirst = get(at + L.R_SECTOR) & ~(L.SECTORS_PER_BLOCK - 1);
    const otherEnd =
      (get(at + L.R_SECTOR) + get(at + L.R_SECTORS) + L.SECTORS_PER_BLOCK - 1) & ~(L.SECTORS_PER_BLOCK - 1);
    if (first < otherEnd && otherFirst < end) return true;
  }
  return false;
}

/** Queues a request on a free slot. A write's buffer is stamped here, and then left alone. */
export function submit(slot: u32, purpose: u32, op: u32, vbd: u32, chunk: u32, sector: u32, sectors: u32): void {
  const at = slotAt(slot);
  const buffer = bufferOf(slot);
  const start = firstSector(vbd, chunk) + sector;
  set(at + L.R_OP, op);
  set(at + L.R_VBD, vbd);
  set(at + L.R_LENGTH, sectors * L.SECTOR_BYTES);
  set64(at + L.R_OFFSET, start * L.SECTOR_BYTES);
  set(at + L.R_BUFFER, buffer as u32);
  set(at + L.R_COOKIE, get(at + L.R_COOKIE) + 1);
  set(at + L.R_PURPOSE, purpose);
  set(at + L.R_CHUNK, chunk);
  set(at + L.R_SECTOR, sector);
  set(at + L.R_SECTORS, sectors);
  set(at + L.R_ERROR, 0);
  if (op == L.OP_WRITE) {
    dirty(buffer, sectors * L.SECTOR_BYTES);
    for (let i: u32 = 0; i < sectors; i++) {
      const counter = nextCounter(load<u16>(sectorState(vbd, chunk, sector + i)));
      stampSector(buffer + (i as usize) * L.SECTOR_BYTES, vbd, start + i, counter);
    }
  }
  set(at + L.R_STATE, L.SLOT_QUEUED);
}

export function submitFlush(slot: u32, vbd: u32): void {
  submit(slot, L.FOR_WORKLOAD, L.OP_FLUSH, vbd, 0, 0, 0);
}

/** Takes every answered slot, verifies or notes what it says, and frees it. */
export function complete(): void {
  for (let slot: u32 = 0; slot < L.SLOTS_MAX; slot++) {
    const at = slotAt(slot);
    const state = get(at + L.R_STATE);
    if (state != L.SLOT_DONE && state != L.SLOT_ERROR) continue;
    const op = get(at + L.R_OP);
    if (state == L.SLOT_ERROR) failed(at, op);
    else if (op == L.OP_READ) wasRead(slot, at);
    else if (op == L.OP_FLUSH) count(L.C_FLUSHES);
    else wasChanged(at, op);
    set(at + L.R_STATE, L.SLOT_FREE);
  }
}

function failed(at: usize, op: u32): void {
  recordError(L.ERROR_IO, get(at + L.R_VBD), get64(at + L.R_OFFSET), op, 0, get(at + L.R_ERROR), 0);
  if (op == L.OP_READ || op == L.OP_FLUSH) return;
  // Old, new or a mixture: nothing can be claimed of these sectors until they are written again.
  note(at, L.SECTOR_UNKNOWN);
}

function wasChanged(at: usize, op: u32): void {
  if (op == L.OP_WRITE) {
    count(L.C_WRITES);
    count(L.C_BYTES_WRITTEN, get(at + L.R_LENGTH));
    note(at, 0);
  } else if (op == L.OP_TRIM) {
    count(L.C_TRIMS);
    note(at, L.SECTOR_UNKNOWN);
  } else {
    count(L.C_ZEROES);
    note(at, L.SECTOR_ZERO);
  }
}

/** Moves the sectors of an acknowledged change to their next state. */
function note(at: usize, flag: u32): void {
  const sectors = get(at + L.R_SECTORS);
  const table = sectorState(get(at + L.R_VBD), get(at + L.R_CHUNK), get(at + L.R_SECTOR));
  dirty(table, sectors * 2);
  for (let i: u32 = 0; i < sectors; i++) {
    const entry = table + (i as usize) * 2;
    store<u16>(entry, (nextCounter(load<u16>(entry)) | flag) as u16);
  }
}

function wasRead(slot: u32, at: usize): void {
  count(L.C_READS);
  count(L.C_BYTES_READ, get(at + L.R_LENGTH));
  const isImage = get(vbdAt(get(at + L.R_VBD)) + L.V_FLAGS) & L.VBD_IMAGE;
  if (isImage) checkImage(slot, at);
  else checkSectors(slot, at);
}

function checkSectors(slot: u32, at: usize): void {
  const vbd = get(at + L.R_VBD);
  const sectors = get(at + L.R_SECTORS);
  const verifying = get(at + L.R_PURPOSE) == L.FOR_VERIFY;
  const first = get64(at + L.R_OFFSET) / L.SECTOR_BYTES;
  const table = sectorState(vbd, get(at + L.R_CHUNK), get(at + L.R_SECTOR));
  let lastBlock: u64 = u64.MAX_VALUE;
  for (let i: u32 = 0; i < sectors; i++) {
    const state = load<u16>(table + (i as usize) * 2) as u32;
    if (state == 0 || state & L.SECTOR_UNKNOWN) continue;
    const data = bufferOf(slot) + (i as usize) * L.SECTOR_BYTES;
    const sector = first + i;
    count(L.C_SECTORS_VERIFIED);
    if (verifying && sector / L.SECTORS_PER_BLOCK != lastBlock) {
      lastBlock = sector / L.SECTORS_PER_BLOCK;
      count(L.S_VERIFY_BLOCKS);
    }
    const zero = (state & L.SECTOR_ZERO) != 0;
    if (zero ? isZero(data) : isStamped(data, vbd, sector, state)) continue;
    recordError(
      verifying ? L.ERROR_VERIFY : L.ERROR_READ, vbd, sector * L.SECTOR_BYTES,
      zero ? 0 : nameWord(vbd, state), zero ? 0 : sector, load<u64>(data), load<u64>(data, 8),
    );
  }
}

function checkImage(slot: u32, at: usize): void {
  const vbd = get(at + L.R_VBD);
  const length = get(at + L.R_LENGTH);
  const verifying = get(at + L.R_PURPOSE) == L.FOR_VERIFY;
  let entry = (get(vbdAt(vbd) + L.V_TABLE) as usize) + (get(at + L.R_CHUNK) as usize) * L.BLOCKS_PER_CHUNK * 4;
  for (let offset: u32 = 0; offset < length; offset += L.BLOCK_BYTES, entry += 4) {
    const hash = hashBlock(bufferOf(slot) + offset, min<u32>(L.BLOCK_BYTES, length - offset));
    const known = load<u32>(entry);
    if (known == 0) {
      dirty(entry, 4);
      store<u32>(entry, hash);
      continue;
    }
    count(verifying ? L.S_VERIFY_BLOCKS : L.C_IMAGE_BLOCKS_VERIFIED);
    if (known != hash) recordError(L.ERROR_IMAGE, vbd, get64(at + L.R_OFFSET) + offset, known, 0, hash, 0);
  }
}
