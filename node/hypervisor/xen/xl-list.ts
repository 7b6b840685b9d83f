/** `xl list -v` as domains, and their states as ours. */

import type { DomainStatus } from "../hypervisor.ts";
import { INCOMING_SUFFIX } from "./xl-handshake.ts";

export type XenDomain = {
  name: string;
  domid: number;
  uuid: string;
  /** Letters of xl: running, blocked, paused, shut down, dying. */
  isPaused: boolean;
  isShutdown: boolean;
  isDying: boolean;
  /** Why it is shut down: Xen's SHUTDOWN_* number. */
  reason: number | undefined;
};

/** Xen's reasons of a shutdown. */
export const SHUTDOWN = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4 } as const;

// Name, id, memory, vcpus, state of six letters, seconds, uuid, reason, label. A name may hold blanks.
const LINE = /^(.*\S)\s+(\d+)\s+(\d+)\s+(\d+)\s+([a-z-]{6})\s+([\d.]+)\s+([0-9a-f-]{36})\s+(\S+)/;

/** Domains other than dom0. Lines that are none are left out. */
export function parseXlList(text: string): XenDomain[] {
  return text.split("\n").flatMap((line) => {
    const [, name = "", domid = "", , , state = "", , uuid = "", reason = ""] = LINE.exec(line) ?? [];
    if (name === "" || domid === "0") return [];
    return [
      {
        name,
        domid: Number(domid),
        uuid,
        isPaused: state[2] === "p",
        isShutdown: state[3] === "s",
        isDying: state[5] === "d",
        reason: /^\d+$/.test(reason) ? Number(reason) : undefined,
      },
    ];
  });
}

/** `isWhole`: whether a domain that was being received holds all of its state. */
export function statusOf(
  { name, isPaused, isShutdown, isDying, reason }: XenDomain,
  { isWhole }: { isWhole: boolean },
): DomainStatus {
  if (isDying) return { state: "shutoff", detail: "Xen is still clearing it away" };
  if (isShutdown) {
    if (reason === SHUTDOWN.suspend) return { state: "suspended" };
    if (reason === SHUTDOWN.poweroff) return { state: "shutoff" };
    if (reason === SHUTDOWN.reboot) return { state: "running", detail: "it reboots" };
    const what = reason === SHUTDOWN.watchdog ? "was stopped by its watchdog" : "crashed";
    return { state: "crashed", detail: `the guest ${what} (Xen's shutdown reason ${reason ?? "unknown"})` };
  }
  if (name.endsWith(INCOMING_SUFFIX) && !isWhole) return { state: "incoming" };
  return { state: isPaused ? "suspended" : "running" };
}
