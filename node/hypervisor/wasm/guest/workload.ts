// The disk workloads: the fill, then idle, web, video or diabolical, as in the paper; and the image reader.

import * as L from "../layout";
import { conflicts, freeSlot, inFlight, sectorsOf, submit, submitFlush } from "./ring";
import { count, earn, get, random, randomBelow, randomSkewed, scatter, set, spend, untilNext, vbdAt } from "./state";

const IMAGE_DEPTH: u32 = 2;
const PICKS_MAX: u32 = 4;
/** A shape of writes, of four. */
const WHOLE: u32 = 3;
/** How far a rewrite's write stays behind its read, in chunks. */
const REWRITE_LAG: u32 = 8;
const RANDOM_OPS: u32 = 2048;

const SEQUENTIAL_WRITE: u32 = 0;
const REWRITE: u32 = 1;
const RANDOM: u32 = 2;

export function isWritable(vbd: u32): bool {
  return (get(vbdAt(vbd) + L.V_FLAGS) & L.VBD_IMAGE) == 0 && get(vbdAt(vbd) + L.V_CHUNKS) > 0;
}

/** Some writable vbd, or VBDS_MAX. */
function randomVbd(): u32 {
  const vbds = get(L.S_VBD_COUNT);
  if (vbds == 0) return L.VBDS_MAX;
  const first = randomBelow(vbds);
  for (let i: u32 = 0; i < vbds; i++) {
    const vbd = (first + i) % vbds;
    if (isWritable(vbd)) return vbd;
  }
  return L.VBDS_MAX;
}

// @ts-ignore: decorator
@inline function workloadSlot(): u32 {
  return inFlight(L.FOR_WORKLOAD) < get(L.S_DEPTH) ? freeSlot() : L.SLOTS_MAX;
}

export function isFilling(): bool {
  return get(L.S_FILL_VBD) < get(L.S_VBD_COUNT);
}

/** Writes every vbd's first `V_FILL_CHUNKS` chunks in order, at full rate. */
export function fill(): u32 {
  while (isFilling()) {
    const vbd = get(L.S_FILL_VBD);
    const chunk = get(L.S_FILL_CHUNK);
    if (!isWritable(vbd) || chunk >= get(vbdAt(vbd) + L.V_FILL_CHUNKS)) {
      set(L.S_FILL_VBD, vbd + 1);
      set(L.S_FILL_CHUNK, 0);
      continue;
    }
    const slot = workloadSlot();
    if (slot == L.SLOTS_MAX) return L.BLOCKED;
    const sectors = sectorsOf(vbd, chunk);
    submit(slot, L.FOR_WORKLOAD, L.OP_WRITE, vbd, chunk, 0, sectors);
    count(L.C_FILLED_BYTES, sectors * L.SECTOR_BYTES);
    set(L.S_FILL_CHUNK, chunk + 1);
  }
  return 0;
}

/** Queues what the rate and the ring allow; answers the microseconds until more may be. */
export function work(elapsedMicros: u32): u32 {
  const rate = get(L.S_DISK_RATE);
  if (rate == 0 || randomVbd() == L.VBDS_MAX) return L.UNLIMITED;
  earn(L.S_DISK_TOKENS, rate, elapsedMicros);
  while (true) {
    const wait = untilNext(L.S_DISK_TOKENS, rate);
    if (wait > 0) return wait;
    const slot = workloadSlot();
    if (slot == L.SLOTS_MAX) return L.BLOCKED;
    if (!workOnce(slot)) return L.BLOCKED;
    spend(L.S_DISK_TOKENS, rate);
  }
}

/** False: whatever it tried must wait for a request in flight. */
function workOnce(slot: u32): bool {
  switch (get(L.S_WORKLOAD)) {
    case L.WORKLOAD_IDLE: return idleOnce(slot);
    case L.WORKLOAD_VIDEO: return videoOnce(slot);
    case L.WORKLOAD_DIABOLICAL: return diabolicalOnce(slot);
    default: return webOnce(slot);
  }
}

function idleOnce(slot: u32): bool {
  if (flushIsDue(16)) return flushSome(slot);
  return writeSomewhere(slot, 1);
}

function webOnce(slot: u32): bool {
  if (flushIsDue(64)) return flushSome(slot);
  const draw = random() & 63;
  if (draw == 0) return discardSomewhere(slot);
  return draw < 32 ? writeSomewhere(slot, 8) : readSomewhere(slot, 8);
}

function videoOnce(slot: u32): bool {
  if (flushIsDue(256)) return flushSome(slot);
  if ((random() & 31) == 0) return writeSomewhere(slot, 1);
  const vbd = get(L.S_PHASE_VBD) % get(L.S_VBD_COUNT);
  const chunk = get(L.S_PHASE_CURSOR);
  if (!isWritable(vbd) || chunk >= sequentialChunks(vbd)) {
    set(L.S_PHASE_VBD, (vbd + 1) % get(L.S_VBD_COUNT));
    set(L.S_PHASE_CURSOR, 0);
    return readSomewhere(slot, 8);
  }
  const sectors = sectorsOf(vbd, chunk);
  if (conflicts(L.OP_READ, vbd, chunk, 0, sectors)) return false;
  submit(slot, L.FOR_WORKLOAD, L.OP_READ, vbd, chunk, 0, sectors);
  set(L.S_PHASE_CURSOR, chunk + 1);
  return true;
}

/** As Bonnie does: write a file in order, rewrite it (read, then write), then at random places; vbd after vbd. */
function diabolicalOnce(slot: u32): bool {
  const vbd = get(L.S_PHASE_VBD) % get(L.S_VBD_COUNT);
  const phase = get(L.S_PHASE);
  const cursor = get(L.S_PHASE_CURSOR);
  const chunks = sequentialChunks(vbd);
  const length =
    phase == SEQUENTIAL_WRITE ? chunks : phase == REWRITE ? 2 * (chunks + REWRITE_LAG) : RANDOM_OPS;
  if (!isWritable(vbd) || cursor >= length) return nextPhase(slot, vbd, phase);
  let moved = true;
  if (phase == SEQUENTIAL_WRITE) {
    moved = whole(slot, L.OP_WRITE, vbd, cursor);
  } else if (phase == REWRITE) {
    const chunk = cursor >> 1;
    if (cursor & 1) moved = chunk < REWRITE_LAG || whole(slot, L.OP_WRITE, vbd, chunk - REWRITE_LAG);
    else moved = chunk >= chunks || whole(slot, L.OP_READ, vbd, chunk);
  } else {
    const draw = random() & 255;
    if (draw == 0) moved = discardSomewhere(slot);
    else moved = draw < 144 ? writeSomewhere(slot, 8) : readSomewhere(slot, 8);
  }
  if (moved) set(L.S_PHASE_CURSOR, cursor + 1);
  return moved;
}

function nextPhase(slot: u32, vbd: u32, phase: u32): bool {
  set(L.S_PHASE_CURSOR, 0);
  if (phase < RANDOM && isWritable(vbd)) {
    set(L.S_PHASE, phase + 1);
  } else {
    set(L.S_PHASE, SEQUENTIAL_WRITE);
    set(L.S_PHASE_VBD, (vbd + 1) % get(L.S_VBD_COUNT));
  }
  if (isWritable(vbd)) submitFlush(slot, vbd);
  return true;
}

function whole(slot: u32, op: u32, vbd: u32, chunk: u32): bool {
  const sectors = sectorsOf(vbd, chunk);
  if (conflicts(op, vbd, chunk, 0, sectors)) return false;
  submit(slot, L.FOR_WORKLOAD, op, vbd, chunk, 0, sectors);
  return true;
}

/** The part of a vbd that sequential passes go over: what was filled, or all of the working set. */
function sequentialChunks(vbd: u32): u32 {
  const filled = get(vbdAt(vbd) + L.V_FILL_CHUNKS);
  return filled > 0 ? filled : get(vbdAt(vbd) + L.V_CHUNKS);
}

function flushIsDue(every: u32): bool {
  const since = get(L.S_SINCE_FLUSH) + 1;
  set(L.S_SINCE_FLUSH, since);
  return since >= every;
}

function flushSome(slot: u32): bool {
  set(L.S_SINCE_FLUSH, 0);
  submitFlush(slot, randomVbd());
  return true;
}

/** Up to `blocksMax` blocks; half of the writes begin or end inside a block, unless they are all to be whole. */
function writeSomewhere(slot: u32, blocksMax: u32): bool {
  const shape = get(L.S_WHOLE_BLOCKS) ? WHOLE : random() & 3;
  if (shape == 0) return somewhere(slot, L.OP_WRITE, 1 + randomBelow(7), 1);
  if (shape == 1) return somewhere(slot, L.OP_WRITE, 8 + randomBelow(blocksMax * 8 - 7), 1);
  return somewhere(slot, L.OP_WRITE, (1 + randomBelow(blocksMax)) * 8, 8);
}

function readSomewhere(slot: u32, blocksMax: u32): bool {
  return somewhere(slot, L.OP_READ, (1 + randomBelow(blocksMax)) * 8, 8);
}

function discardSomewhere(slot: u32): bool {
  return somewhere(slot, random() & 1 ? L.OP_TRIM : L.OP_ZERO, (1 + randomBelow(4)) * 8, 8);
}

function somewhere(slot: u32, op: u32, sectors: u32, alignment: u32): bool {
  for (let pick: u32 = 0; pick < PICKS_MAX; pick++) {
    const vbd = randomVbd();
    const blocks = get(vbdAt(vbd) + L.V_CHUNKS) * L.BLOCKS_PER_CHUNK;
    const block = scatter(randomSkewed(blocks), blocks);
    const chunk = block / L.BLOCKS_PER_CHUNK;
    const inChunk = sectorsOf(vbd, chunk);
    let sector = (block % L.BLOCKS_PER_CHUNK) * L.SECTORS_PER_BLOCK;
    if (alignment == 1) sector += randomBelow(L.SECTORS_PER_BLOCK);
    if (sector >= inChunk) continue;
    const length = min<u32>(sectors, inChunk - sector);
    if (conflicts(op, vbd, chunk, sector, length)) continue;
    submit(slot, L.FOR_WORKLOAD, op, vbd, chunk, sector, length);
    return true;
  }
  return false;
}

/** Reads the vbds that are a user's own images, in order, again and again. */
export function readImages(elapsedMicros: u32): u32 {
  const rate = get(L.S_IMAGE_RATE);
  if (rate == 0 || !nextImage()) return L.UNLIMITED;
  earn(L.S_IMAGE_TOKENS, rate, elapsedMicros);
  while (true) {
    const wait = untilNext(L.S_IMAGE_TOKENS, rate);
    if (wait > 0) return wait;
    if (inFlight(L.FOR_IMAGE) >= IMAGE_DEPTH) return L.BLOCKED;
    const slot = freeSlot();
    if (slot == L.SLOTS_MAX) return L.BLOCKED;
    nextImage();
    const vbd = get(L.S_IMAGE_VBD);
    const cursor = vbdAt(vbd) + L.V_CURSOR;
    const chunk = get(cursor);
    submit(slot, L.FOR_IMAGE, L.OP_READ, vbd, chunk, 0, sectorsOf(vbd, chunk));
    set(cursor, chunk + 1);
    spend(L.S_IMAGE_TOKENS, rate);
  }
}

/** Settles on an image vbd with a chunk left to read; begins anew where all are through. */
function nextImage(): bool {
  const vbds = get(L.S_VBD_COUNT);
  for (let i: u32 = 0; i <= vbds; i++) {
    const vbd = get(L.S_IMAGE_VBD);
    const record = vbdAt(vbd);
    const isImage = (get(record + L.V_FLAGS) & L.VBD_IMAGE) != 0 && get(record + L.V_CHUNKS) > 0;
    if (isImage && get(record + L.V_CURSOR) < get(record + L.V_CHUNKS)) return true;
    if (isImage) {
      set(record + L.V_CURSOR, 0);
      count(L.C_IMAGE_PASSES);
    }
    set(L.S_IMAGE_VBD, vbd + 1 < vbds ? vbd + 1 : 0);
  }
  return false;
}
