// The memory workload: pages whose sectors carry stamps, verified and stamped anew at a rate.

import * as L from "../layout";
import { count, dirty, earn, get, randomBelow, random, randomSkewed, recordError, scatter, set, spend, untilNext } from "./state";
import { isStamped, nameWord, nextCounter, stampSector } from "./stamp";

const SECTORS_PER_PAGE: u32 = 8;
/** The most pages of one step, so that a step stays short. */
const PAGES_PER_STEP: u32 = 64;

// @ts-ignore: decorator
@inline function tableAt(sector: u32): usize { return (get(L.S_TOUCHED_TABLE) as usize) + (sector as usize) * 2; }
// @ts-ignore: decorator
@inline function sectorAt(sector: u32): usize {
  return (get(L.S_TOUCHED_START) as usize) + (sector as usize) * L.SECTOR_BYTES;
}

export function touchMemory(elapsedMicros: u32): u32 {
  const pages = get(L.S_TOUCHED_PAGES);
  const rate = get(L.S_MEMORY_RATE);
  if (pages == 0) return L.UNLIMITED;
  const stamped = get(L.S_TOUCHED_STAMPED);
  if (stamped < pages) {
    const end = min<u32>(stamped + PAGES_PER_STEP, pages);
    for (let page = stamped; page < end; page++) restamp(page * SECTORS_PER_PAGE, SECTORS_PER_PAGE);
    set(L.S_TOUCHED_STAMPED, end);
    return 0;
  }
  earn(L.S_MEMORY_TOKENS, rate, elapsedMicros);
  for (let i: u32 = 0; i < PAGES_PER_STEP; i++) {
    if (rate == 0 || !spend(L.S_MEMORY_TOKENS, rate)) break;
    const uniform = get(L.S_WORKLOAD) == L.WORKLOAD_DIABOLICAL;
    const page = uniform ? randomBelow(pages) : scatter(randomSkewed(pages), pages);
    checkPage(page);
    // Mostly a part of a page changes, as in a real guest; that is what a page delta is for.
    if (random() & 3) restamp(page * SECTORS_PER_PAGE + randomBelow(SECTORS_PER_PAGE), 1);
    else restamp(page * SECTORS_PER_PAGE, SECTORS_PER_PAGE);
    count(L.C_PAGES_TOUCHED);
  }
  return untilNext(L.S_MEMORY_TOKENS, rate);
}

export function checkPage(page: u32): void {
  const first = page * SECTORS_PER_PAGE;
  for (let sector = first; sector < first + SECTORS_PER_PAGE; sector++) {
    const counter = load<u16>(tableAt(sector)) as u32;
    const at = sectorAt(sector);
    if (counter == 0 || isStamped(at, L.MEMORY_VBD, sector, counter)) continue;
    recordError(
      L.ERROR_MEMORY, L.MEMORY_VBD, at as u64,
      nameWord(L.MEMORY_VBD, counter), sector, load<u64>(at), load<u64>(at, 8),
    );
  }
}

function restamp(first: u32, sectors: u32): void {
  dirty(tableAt(first), sectors * 2);
  dirty(sectorAt(first), sectors * L.SECTOR_BYTES);
  for (let sector = first; sector < first + sectors; sector++) {
    const counter = nextCounter(load<u16>(tableAt(sector)));
    store<u16>(tableAt(sector), counter as u16);
    stampSector(sectorAt(sector), L.MEMORY_VBD, sector, counter);
  }
}
