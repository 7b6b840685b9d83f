// The guest. The host writes the parameters and the vbd records, calls `boot` once, and then `step` again and
// again; `step` answers in how many microseconds it has something to do (0: at once, UNLIMITED: when a request
// completes). Between two calls everything the guest knows is in linear memory.

import * as L from "../layout";
import { touchMemory } from "./memory";
import { anyInFlight, complete, freeSlot, inFlight, submitFlush } from "./ring";
import { count, get, get64, random, set, set64, vbdAt } from "./state";
import { isVerifying, startVerify, verifyOn } from "./verify";
import { fill, isFilling, isWritable, readImages, work } from "./workload";

export { startVerify };

/** Lays out the memory. False: it is too small for this many vbds. */
export function boot(): bool {
  const memoryBytes = get(L.S_MEMORY_BYTES);
  set64(L.S_RANDOM, get64(L.S_SEED) | 1);
  for (let i = 0; i < 8; i++) random();
  const logBytes = (memoryBytes / L.PAGE_BYTES + L.PAGE_BYTES - 1) & ~(L.PAGE_BYTES - 1);
  let at: u64 = (L.DIRTY_LOG as u64) + (logBytes as u64);
  const vbds = get(L.S_VBD_COUNT);
  // A half of what is left for the tables of disk, at most, shared evenly.
  const share = vbds == 0 ? 0 : (((memoryBytes as u64) - at) / 2 / (vbds as u64)) & ~4095;
  for (let vbd: u32 = 0; vbd < vbds; vbd++) at += layOutVbd(vbd, at, share);
  const start = layOutTouched(at, memoryBytes);
  if (start > (memoryBytes as u64)) return false;
  set(L.S_VERSION, L.GUEST_VERSION);
  set(L.S_MAGIC, L.GUEST_MAGIC);
  return true;
}

/** Chooses a vbd's working set so that its table fits in `share` bytes; answers the table's size. */
function layOutVbd(vbd: u32, table: u64, share: u64): u64 {
  const record = vbdAt(vbd);
  const isImage = (get(record + L.V_FLAGS) & L.VBD_IMAGE) != 0;
  const perChunk: u64 = isImage ? L.BLOCKS_PER_CHUNK * 4 : L.SECTORS_PER_CHUNK * 2;
  const sectors = get64(record + L.V_SIZE_BYTES) / L.SECTOR_BYTES;
  const all = (sectors + L.SECTORS_PER_CHUNK - 1) / L.SECTORS_PER_CHUNK;
  let wanted = all;
  if (!isImage) {
    const asked = max<u64>(get64(L.S_WORKING_SET_BYTES), get64(L.S_FILL_BYTES));
    if (get64(L.S_WORKING_SET_BYTES) > 0) wanted = min<u64>(all, (asked + L.CHUNK_BYTES - 1) / L.CHUNK_BYTES);
  }
  const chunks = min<u64>(wanted, share / perChunk);
  const stride = chunks == 0 ? 1 : all / chunks;
  set(record + L.V_TABLE, table as u32);
  set(record + L.V_CHUNKS, chunks as u32);
  set(record + L.V_STRIDE, stride as u32);
  const filled = min<u64>(chunks, (get64(L.S_FILL_BYTES) + L.CHUNK_BYTES - 1) / L.CHUNK_BYTES);
  set(record + L.V_FILL_CHUNKS, isImage ? 0 : (filled as u32));
  return (chunks * perChunk + 4095) & ~4095;
}

/** The rest of memory, or as much of it as was asked for: a table, then the pages. Answers its end. */
function layOutTouched(at: u64, memoryBytes: u32): u64 {
  if (at > (memoryBytes as u64)) return at;
  const rest = (memoryBytes as u64) - at;
  const fits = rest > 2 * 4096 ? ((rest - 4096) * 256) / (257 * 4096) : 0;
  const pages = min<u64>(fits, get64(L.S_TOUCHED_BYTES) / L.PAGE_BYTES);
  const tableBytes = (pages * 16 + 4095) & ~4095;
  set(L.S_TOUCHED_TABLE, at as u32);
  set(L.S_TOUCHED_START, (at + tableBytes) as u32);
  set(L.S_TOUCHED_PAGES, pages as u32);
  return at + tableBytes + pages * L.PAGE_BYTES;
}

export function step(elapsedMicros: u32): u32 {
  count(L.C_STEPS);
  count(L.C_UPTIME_MICROS, elapsedMicros);
  complete();
  set(L.S_BLOCKED, 1);
  if (get(L.S_HALTED)) return L.UNLIMITED;
  if (isVerifying()) return verifyOn();
  if (get(L.S_COMMAND) == L.COMMAND_SHUTDOWN) return shutDown();
  const memory = touchMemory(elapsedMicros);
  const disk = isFilling() ? fill() : work(elapsedMicros);
  const images = readImages(elapsedMicros);
  set(L.S_BLOCKED, disk == L.BLOCKED || images == L.BLOCKED ? 1 : 0);
  return min<u32>(min<u32>(memory, disk), images);
}

/** Waits for what is in flight, flushes every vbd, and halts. */
function shutDown(): u32 {
  if (inFlight(L.FOR_IMAGE) > 0) return L.UNLIMITED;
  const told = get(L.S_SHUTDOWN_FLUSHED);
  if (!told && anyInFlight()) return L.UNLIMITED;
  if (!told) {
    for (let vbd: u32 = 0; vbd < get(L.S_VBD_COUNT); vbd++) if (isWritable(vbd)) submitFlush(freeSlot(), vbd);
    set(L.S_SHUTDOWN_FLUSHED, 1);
  }
  if (anyInFlight()) return L.UNLIMITED;
  set(L.S_HALTED, 1);
  return 0;
}
