/** QEMU's run states as a domain's states. */

import type { RunState } from "../../qmp/commands.ts";
import type { DomainStatus } from "../hypervisor.ts";

const STATES: Readonly<Record<string, DomainStatus>> = {
  running: { state: "running" },
  paused: { state: "suspended" },
  prelaunch: { state: "suspended" },
  suspended: { state: "running", detail: "the guest sleeps (ACPI S3)" },
  debug: { state: "suspended", detail: "stopped by a debugger" },
  "save-vm": { state: "suspended" },
  "restore-vm": { state: "suspended" },
  /** Stopped for a migration: whole, and may go on. */
  "finish-migrate": { state: "suspended" },
  postmigrate: { state: "suspended" },
  inmigrate: { state: "incoming" },
  shutdown: { state: "shutoff" },
  "io-error": { state: "suspended", detail: "stopped because a vbd failed; `start` lets it try again" },
  watchdog: { state: "suspended", detail: "stopped by the guest's watchdog" },
  "guest-panicked": { state: "crashed", detail: "the guest's kernel panicked" },
  "internal-error": { state: "crashed", detail: "QEMU reports an internal error" },
};

export function stateOf({ status }: Pick<RunState, "status">): DomainStatus {
  return STATES[status] ?? { state: "crashed", detail: `QEMU is in the state ${status}` };
}
