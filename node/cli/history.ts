/** `sojourn history`: the stays of a domain, generation by generation, and the hops between them. */

import { open } from "node:fs/promises";
import type { Command } from "commander";
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { CustodyChain, CustodyReport, HistoryRow } from "../control/api.ts";
import { formatSize } from "../sizes.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { formatDuration } from "./format.ts";
import { type Column, formatTable, printable, UsageError } from "./output.ts";

const COLUMNS: readonly Column<HistoryRow>[] = [
  { title: "GEN", align: "right", cell: (row) => row.generation.toString() },
  { title: "HOST", cell: (row) => row.hostName },
  { title: "SINCE", cell: (row) => row.startedAt ?? "-" },
  {
    title: "WRITTEN",
    align: "right",
    cell: (row) => (row.blocksWritten === undefined ? "-" : formatSize(row.blocksWritten * BLOCK_SIZE_BYTES)),
  },
  { title: "HOW", cell: howOf },
  { title: "SIGNED BY", cell: (row) => row.custody?.signedBy.join(", ") ?? "-" },
  { title: "RUNG", cell: (row) => row.hop?.rung ?? "-" },
  { title: "DISK SENT", align: "right", cell: (row) => (row.hop ? formatSize(row.hop.diskBytesSent) : "-") },
  { title: "DOWNTIME", align: "right", cell: (row) => (row.hop ? formatDuration(row.hop.downtimeMs) : "-") },
  { title: "TOTAL", align: "right", cell: (row) => (row.hop ? formatDuration(row.hop.totalMs) : "-") },
];

function howOf({ custody, recovered, generation }: HistoryRow): string {
  if (recovered !== undefined) return recovered.outcome;
  return custody?.kind ?? (generation === 1 ? "created" : "-");
}

const CERTIFICATES: readonly Column<CustodyChain["certificates"][number]>[] = [
  { title: "GEN", align: "right", cell: (row) => row.generation.toString() },
  { title: "HOW", cell: (row) => row.kind },
  { title: "FROM", cell: (row) => row.fromName },
  { title: "TO", cell: (row) => row.toName },
  { title: "WHEN", cell: (row) => new Date(row.timeMs).toISOString() },
  { title: "SIGNED BY", cell: (row) => row.signedBy.join(", ") },
  { title: "WROTE", cell: (row) => row.digest.slice(0, 16) },
];

type HistoryOptions = ApiOptions & { verify?: boolean; chain?: string };

export function addHistory(program: Command): void {
  addApiCommand(program, "history", {
    summary: "list a domain's stays on hosts, who signed each handover, and what each hop cost",
    example: "sojourn history web --verify",
  })
    .argument("[domain]", "name or id")
    .option("--verify", "show and check the certificates of custody, signed by both hosts of each hop")
    .option("--chain <file>", "check what `history --verify --json` printed somewhere; asks no daemon")
    .action(history);
}

async function history(domain: string | undefined, options: HistoryOptions): Promise<void> {
  const { chain, verify } = options;
  if (chain !== undefined) {
    if (domain !== undefined) throw new UsageError("--chain names a file, and stands without a domain");
    printChain(options, await chainOf(chain));
    return;
  }
  if (domain === undefined) throw new UsageError("which domain? or --chain with a file");
  await withClient(options, async (client) => {
    if (verify) printChain(options, await client.call("custody", { domain }));
    else printResult(options, await client.call("history", { domain }), (rows) => formatTable(COLUMNS, rows));
  });
}

async function chainOf(file: string): Promise<CustodyChain> {
  const { CHAIN_TEXT_SIZE_MAX, readChain } = await import("../recovery/chain-report.ts");
  const opened = await open(file).catch((cause: Error) => {
    throw new UsageError(`${file} cannot be read: ${cause.message}`, { cause });
  });
  try {
    const { size } = await opened.stat();
    if (size > CHAIN_TEXT_SIZE_MAX) throw new UsageError(`${file} is larger than any chain: ${size} bytes`);
    return readChain(await opened.readFile("utf8"), file);
  } finally {
    await opened.close();
  }
}

function printChain<T extends CustodyChain>(options: ApiOptions, chain: T): void {
  printResult(options, chain, formatCustody);
  if (chain.problems.length > 0) process.exitCode = 1;
}

function formatCustody(report: CustodyChain & Partial<CustodyReport>): string {
  const { certificates, problems, incomplete, gaps, cutOff, seenBy, unreached } = report;
  const notes = [
    ...verdictOf(report),
    ...problems.map((problem) => `NOT SOUND: ${problem}`),
    ...(incomplete.length === 0 ? [] : [`not countersigned yet: generation ${incomplete.join(", ")}`]),
    ...gaps.map((generation) => `nobody vouches for what was before generation ${generation}`),
    ...(cutOff.length === 0 ? [] : [`cut off by an adoption: generation ${cutOff.join(", ")}`]),
    ...(seenBy === undefined ? [] : [`as ${seenBy} has it`]),
    ...(unreached === undefined
      ? []
      : [`${unreached}, the domain's host, does not answer and may know more`]),
  ];
  const table = certificates.length === 0 ? "" : formatTable(CERTIFICATES, certificates);
  return `${table}${notes.map(printable).join("\n")}\n`;
}

function verdictOf({ certificates, problems, incomplete }: CustodyChain): string[] {
  const [first] = certificates;
  if (problems.length > 0) return [];
  if (first === undefined) return ["no handover yet: the domain is where it was created"];
  const signed =
    incomplete.length === 0 ? "is signed by whom it names" : "bears no signature but of whom it names";
  return [
    `sound from generation ${first.generation} on: every certificate ${signed} and follows the one before it`,
  ];
}
