// All state is in linear memory at fixed places: these are its only doors. No mutable global may exist,
// because a global is not part of what a migration carries.

import * as L from "../layout";

// @ts-ignore: decorator
@inline export function get(offset: usize): u32 { return load<u32>(offset); }
// @ts-ignore: decorator
@inline export function set(offset: usize, value: u32): void { store<u32>(offset, value); }
// @ts-ignore: decorator
@inline export function get64(offset: usize): u64 { return load<u64>(offset); }
// @ts-ignore: decorator
@inline export function set64(offset: usize, value: u64): void { store<u64>(offset, value); }
// @ts-ignore: decorator
@inline export function count(offset: usize, by: u64 = 1): void { store<u64>(offset, load<u64>(offset) + by); }

// @ts-ignore: decorator
@inline export function vbdAt(vbd: u32): usize { return L.VBD_RECORDS + vbd * L.VBD_RECORD_BYTES; }
// @ts-ignore: decorator
@inline export function slotAt(slot: u32): usize { return L.RING + slot * L.SLOT_BYTES; }

/** Tells the host which pages change. Every store above ALWAYS_DIRTY_BYTES is announced here. */
export function dirty(address: usize, length: u32): void {
  const last = (address + length - 1) >>> 12;
  for (let page = address >>> 12; page <= last; page++) store<u8>((L.DIRTY_LOG as usize) + page, 1);
}

/** xorshift64*: the state is one word of memory. */
export function random(): u32 {
  let x = get64(L.S_RANDOM);
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  set64(L.S_RANDOM, x);
  return ((x * 0x2545f4914f6cdd1d) >> 32) as u32;
}

/** Uniform below `bound`. */
export function randomBelow(bound: u32): u32 {
  return (((random() as u64) * (bound as u64)) >> 32) as u32;
}

/** Log-uniform below `bound`: rank r is drawn with a weight of about 1/r, as Zipf's law has it. */
export function randomSkewed(bound: u32): u32 {
  if (bound < 2) return 0;
  const bits = 32 - clz<u32>(bound);
  const low = ((1 as u32) << randomBelow(bits)) as u32;
  const rank = low - 1 + randomBelow(low);
  return rank < bound ? rank : randomBelow(bound);
}

/** Scatters ranks over the working set, so that hot ones are not neighbours. A bijection below `bound`. */
export function scatter(rank: u32, bound: u32): u32 {
  return (((rank as u64) * 2654435761 + 12345) % (bound as u64)) as u32;
}

export function recordError(kind: u32, vbd: u32, offset: u64, e0: u64, e1: u64, f0: u64, f1: u64): void {
  const index = get64(L.C_ERRORS);
  count(L.C_ERRORS);
  if (index >= L.ERRORS_MAX) return;
  const record = L.ERROR_RECORDS + (index as u32) * L.ERROR_RECORD_BYTES;
  set(record + L.E_KIND, kind);
  set(record + L.E_VBD, vbd);
  set64(record + L.E_OFFSET, offset);
  set64(record + L.E_EXPECTED, e0);
  set64(record + L.E_EXPECTED + 8, e1);
  set64(record + L.E_FOUND, f0);
  set64(record + L.E_FOUND + 8, f1);
}

/** Adds what `elapsedMicros` is worth at `rate` per second; a pause is not made up for by more than a fifth of a second. */
export function earn(tokens: usize, rate: u32, elapsedMicros: u32): void {
  const burst = ((rate / 5) as u64) + 1;
  const have = get64(tokens) + (rate as u64) * (elapsedMicros as u64);
  set64(tokens, min<u64>(have, burst * 1000000));
}

/** Whether one operation may be done now; takes its token. */
export function spend(tokens: usize, rate: u32): bool {
  if (rate == L.UNLIMITED) return true;
  const have = get64(tokens);
  if (have < 1000000) return false;
  set64(tokens, have - 1000000);
  return true;
}

/** Microseconds until the next token. */
export function untilNext(tokens: usize, rate: u32): u32 {
  if (rate == 0) return L.UNLIMITED;
  if (rate == L.UNLIMITED) return 0;
  const have = get64(tokens);
  if (have >= 1000000) return 0;
  return ((1000000 - have) / (rate as u64) + 1) as u32;
}
