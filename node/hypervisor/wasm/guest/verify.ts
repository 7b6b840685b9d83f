// The full pass on demand: every block ever written, every image block seen, every touched page. The workload
// rests meanwhile. Its place is in memory, so a pass that is under way goes on after a migration.

import * as L from "../layout";
import { checkPage } from "./memory";
import { anyInFlight, freeSlot, inFlight, sectorState, sectorsOf, submit } from "./ring";
import { count, get, get64, set, set64, vbdAt } from "./state";

const PAGES_PER_STEP: u32 = 256;
const CHUNKS_SKIPPED_PER_STEP: u32 = 4096;

export function isVerifying(): bool {
  return get(L.S_VERIFY_STARTED) != get(L.S_VERIFY_ENDED);
}

/** Called by the host between steps; answers the pass's number. */
export function startVerify(): u32 {
  if (isVerifying()) return get(L.S_VERIFY_STARTED);
  set(L.S_VERIFY_VBD, 0);
  set(L.S_VERIFY_CHUNK, 0);
  set(L.S_VERIFY_PAGE, 0);
  set64(L.S_VERIFY_BLOCKS, 0);
  set64(L.S_VERIFY_PAGES, 0);
  set64(L.S_VERIFY_ERRORS, get64(L.C_ERRORS));
  set(L.S_VERIFY_STARTED, get(L.S_VERIFY_STARTED) + 1);
  return get(L.S_VERIFY_STARTED);
}

export function verifyOn(): u32 {
  // The workload's own requests first: what is unanswered is neither old nor new.
  if (inFlight(L.FOR_WORKLOAD) > 0) return L.UNLIMITED;
  let skipped: u32 = 0;
  while (get(L.S_VERIFY_VBD) < get(L.S_VBD_COUNT)) {
    const vbd = get(L.S_VERIFY_VBD);
    const chunk = get(L.S_VERIFY_CHUNK);
    if (chunk >= get(vbdAt(vbd) + L.V_CHUNKS)) {
      set(L.S_VERIFY_VBD, vbd + 1);
      set(L.S_VERIFY_CHUNK, 0);
      continue;
    }
    if (isKnown(vbd, chunk)) {
      const slot = freeSlot();
      if (slot == L.SLOTS_MAX) return L.UNLIMITED;
      submit(slot, L.FOR_VERIFY, L.OP_READ, vbd, chunk, 0, sectorsOf(vbd, chunk));
    } else if (++skipped > CHUNKS_SKIPPED_PER_STEP) return 0;
    set(L.S_VERIFY_CHUNK, chunk + 1);
  }
  const pages = get(L.S_TOUCHED_STAMPED);
  const end = min<u32>(get(L.S_VERIFY_PAGE) + PAGES_PER_STEP, pages);
  for (let page = get(L.S_VERIFY_PAGE); page < end; page++) {
    checkPage(page);
    count(L.S_VERIFY_PAGES);
  }
  set(L.S_VERIFY_PAGE, end);
  if (end < pages) return 0;
  if (anyInFlight()) return L.UNLIMITED;
  set64(L.S_VERIFY_ERRORS, get64(L.C_ERRORS) - get64(L.S_VERIFY_ERRORS));
  set(L.S_VERIFY_ENDED, get(L.S_VERIFY_STARTED));
  return 0;
}

/** Whether anything is known of a chunk, so that reading it can find an error. */
function isKnown(vbd: u32, chunk: u32): bool {
  if (get(vbdAt(vbd) + L.V_FLAGS) & L.VBD_IMAGE) {
    const entry = (get(vbdAt(vbd) + L.V_TABLE) as usize) + (chunk as usize) * L.BLOCKS_PER_CHUNK * 4;
    return load<u32>(entry) != 0;
  }
  const states = sectorState(vbd, chunk, 0);
  let any: u64 = 0;
  for (let at: usize = 0; at < L.SECTORS_PER_CHUNK * 2; at += 8) any |= load<u64>(states + at);
  return any != 0;
}
