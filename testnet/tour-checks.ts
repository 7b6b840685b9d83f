/** What must hold of every hop, checked with figures that the daemons had no part in wherever there are such. */

import type { HopReport, VerifyReport } from "../node/control/api.ts";
import { BLOCK_SIZE_BYTES } from "../protocol/units.ts";
import type { GuestFigures } from "./guest.ts";

export type Check = { name: string; ok: boolean; detail: string };

/** Frames, acknowledgements, bitmaps and the connection's own handshake. */
const OVERHEAD_FACTOR = 1.02;
const OVERHEAD_BYTES = 1 << 20;
/** What TLS and the frames of a memory connection add to a link's count; and what was in flight when we looked. */
const LINK_SLACK_FACTOR = 0.01;
const LINK_SLACK_BYTES = 256 << 10;

export type HopEvidence = {
  report: HopReport;
  /** Whether the destination had a replica. */
  isReturn: boolean;
  /** Blocks that hold anything, in the vbds that the source was left with. */
  allocatedBlocks: number;
  /** Blocks in which those differ from the replica that the destination had. */
  differingBlocks: number | undefined;
  /** Of a return: blocks that the guest can have written since it left that host, by its own count. */
  writtenBlocksMax: number | undefined;
  verify: VerifyReport;
  before: GuestFigures;
  after: GuestFigures;
  /** Names of the hosts that say the domain runs there. */
  runningOn: readonly string[];
  guestProcesses: number;
  /** Bytes that a relay between the two hosts counted. */
  linkBytes: number | undefined;
};

export function checkHop(evidence: HopEvidence): Check[] {
  const { report, isReturn, differingBlocks, verify, before, after } = evidence;
  const checks = [
    check("the guest's verification", verify.ok, describeVerify(verify, after)),
    isReturn ? checkReturnBytes(evidence) : checkFirstBytes(evidence),
    check(
      "the rung",
      report.rung === (isReturn ? "bitmaps" : "allocated"),
      `${report.rung}: ${report.reason}`,
    ),
    check(
      "one host runs the domain",
      evidence.runningOn.join() === report.to && evidence.guestProcesses === 1,
      `running on ${evidence.runningOn.join(" and ") || "none"}, ${evidence.guestProcesses} guest processes`,
    ),
    check(
      "the guest went on",
      after.uptimeMs > before.uptimeMs && after.steps > before.steps,
      `uptime ${before.uptimeMs} to ${after.uptimeMs} ms, ${after.writes - before.writes} writes meanwhile`,
    ),
  ];
  const { writtenBlocksMax } = evidence;
  if (writtenBlocksMax !== undefined) checks.push(checkChanged(report, writtenBlocksMax));
  if (differingBlocks !== undefined) checks.push(checkDiffering(report, differingBlocks));
  if (evidence.linkBytes !== undefined) checks.push(checkLink(report, evidence.linkBytes));
  return checks;
}

/** Where `sent` bytes must not exceed what `blocks` blocks and those sent again may cost. */
export function bytesMax(blocks: number, blocksResent: number): number {
  return Math.floor(OVERHEAD_FACTOR * BLOCK_SIZE_BYTES * (blocks + blocksResent)) + OVERHEAD_BYTES;
}

function checkFirstBytes({ report, allocatedBlocks }: HopEvidence): Check {
  const max = bytesMax(allocatedBlocks, report.blocksResent);
  return check(
    "the disk bytes of a first visit",
    report.diskBytesSent <= max,
    `${report.diskBytesSent} sent, ${max} allowed: ${allocatedBlocks} allocated non-zero blocks, ${report.blocksResent} resent`,
  );
}

function checkReturnBytes({ report }: HopEvidence): Check {
  const max = bytesMax(report.blocksChanged, report.blocksResent);
  return check(
    "the disk bytes of a return",
    report.diskBytesSent <= max,
    `${report.diskBytesSent} sent, ${max} allowed: ${report.blocksChanged} changed blocks, ${report.blocksResent} resent`,
  );
}

/** Without it a migration that called every block changed could send them all. */
function checkChanged({ blocksChanged }: HopReport, writtenBlocksMax: number): Check {
  return check(
    "the changed blocks of a return",
    blocksChanged <= writtenBlocksMax,
    `${blocksChanged} were reported as changed, the guest wrote no more than ${writtenBlocksMax} since it left`,
  );
}

/** A block may be written and be as before; a block that differs and was not written would be a lost one. */
function checkDiffering(report: HopReport, differingBlocks: number): Check {
  return check(
    "no changed block was overlooked",
    differingBlocks <= report.blocksChanged,
    `${differingBlocks} blocks differ between the two copies, ${report.blocksChanged} were reported as changed`,
  );
}

function checkLink(report: HopReport, linkBytes: number): Check {
  const reported = report.diskBytesSent + report.memoryBytesSent;
  const slack = LINK_SLACK_BYTES + LINK_SLACK_FACTOR * reported;
  return check(
    "the bytes on the link",
    Math.abs(linkBytes - reported) <= slack,
    `the relay counted ${linkBytes}, the report says ${reported}`,
  );
}

function describeVerify(verify: VerifyReport, { firstErrors }: GuestFigures): string {
  const what = `${verify.blocksChecked ?? 0} blocks and ${verify.pagesChecked ?? 0} pages`;
  return verify.ok
    ? `${what} are as written`
    : `${verify.errors} errors in ${what}: ${firstErrors.join("; ")}`;
}

export function check(name: string, ok: boolean, detail: string): Check {
  return { name, ok, detail };
}
