// The stamp: 512 bytes that say which sector they are, in which write of it, and fill the rest with a
// pattern that follows from the same. Every bit of a sector is thus known, and a wrong one says whose it is.

import * as L from "../layout";
import { get64 } from "./state";

const GOLDEN: u64 = 0x9e3779b97f4a7c15;

// @ts-ignore: decorator
@inline function mix(value: u64): u64 {
  let z = value + GOLDEN;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// @ts-ignore: decorator
@inline export function nameWord(vbd: u32, counter: u32): u64 {
  return 0x534a_0000_0000_0000 | ((vbd as u64) << 32) | (counter as u64);
}

// @ts-ignore: decorator
@inline function keyOf(vbd: u32, sector: u64, counter: u32): u64 {
  return mix(get64(L.S_SEED) ^ mix(((vbd as u64) << 48) ^ (sector << 14) ^ (counter as u64)));
}

export function stampSector(address: usize, vbd: u32, sector: u64, counter: u32): void {
  store<u64>(address, nameWord(vbd, counter));
  store<u64>(address, sector, 8);
  store<u64>(address, get64(L.S_SEED), 16);
  let x = keyOf(vbd, sector, counter);
  for (let at = address + 24, end = address + L.SECTOR_BYTES; at < end; at += 8) {
    store<u64>(at, x);
    x += GOLDEN;
  }
}

export function isStamped(address: usize, vbd: u32, sector: u64, counter: u32): bool {
  let wrong =
    (load<u64>(address) ^ nameWord(vbd, counter)) |
    (load<u64>(address, 8) ^ sector) |
    (load<u64>(address, 16) ^ get64(L.S_SEED));
  let x = keyOf(vbd, sector, counter);
  for (let at = address + 24, end = address + L.SECTOR_BYTES; at < end; at += 8) {
    wrong |= load<u64>(at) ^ x;
    x += GOLDEN;
  }
  return wrong == 0;
}

export function isZero(address: usize): bool {
  let wrong: u64 = 0;
  for (let at = address, end = address + L.SECTOR_BYTES; at < end; at += 8) wrong |= load<u64>(at);
  return wrong == 0;
}

/** A hash of a block of someone else's data; never 0, which means "not seen yet". */
export function hashBlock(address: usize, length: u32): u32 {
  let a: u64 = 1;
  let b: u64 = 2;
  for (let at = address, end = address + length; at < end; at += 16) {
    a = rotl<u64>((a ^ load<u64>(at)) * GOLDEN, 29);
    b = rotl<u64>((b ^ load<u64>(at, 8)) * 0xbf58476d1ce4e5b9, 31);
  }
  const hash = mix(a ^ rotl<u64>(b, 17)) as u32;
  return hash == 0 ? 1 : hash;
}

// @ts-ignore: decorator
@inline export function nextCounter(state: u32): u32 {
  return ((state & L.COUNTER_MASK) % L.COUNTER_MASK) + 1;
}
