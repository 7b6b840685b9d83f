/**
 * `npm run faults`: everything that can go wrong between two daemons, done to them on purpose while a guest works,
 * one case after the other. A case passes when the domain runs on exactly one host afterwards, its guest finds
 * every block and page as it wrote it, and two more migrations go well.
 */

import { readFileSync } from "node:fs";
import { Command } from "commander";
import { integer } from "../node/cli/arguments.ts";
import { formatDuration } from "../node/cli/format.ts";
import { formatTable } from "../node/cli/output.ts";
import type { CaseResult, FaultCase } from "./faults/fault-case.ts";
import { killCases } from "./faults/kill-cases.ts";
import { controlLinkCases, linkCases } from "./faults/link-cases.ts";
import { Stage } from "./faults/stage.ts";
import { StatusLine } from "./status-line.ts";
import { within } from "./waiting.ts";

type FaultsOptions = {
  json?: boolean;
  fast?: boolean;
  only?: string;
  list?: boolean;
  seed: number;
  jobs: number;
};

/** Ample for an outage of 30 s and all that follows it on a busy machine. */
const CASE_TIMEOUT_MS = 300_000;
const LOG_CHARS = 6000;

async function main(argv: readonly string[]): Promise<number> {
  const options = parse(argv);
  const all = [...killCases(), ...linkCases(), ...controlLinkCases()];
  const chosen = all.filter(
    ({ name, isFast }) =>
      (options.only === undefined || options.only.split(",").some((part) => name.includes(part))) &&
      (isFast || options.fast !== true),
  );
  if (options.list) {
    for (const { name, fault } of chosen) process.stdout.write(`${name.padEnd(48)} ${fault}\n`);
    return 0;
  }
  if (chosen.length === 0) {
    process.stderr.write(`no case's name contains "${options.only}"; --list shows them\n`);
    return 2;
  }
  const results = await runAll(chosen, options);
  if (!options.json) process.stdout.write(report(results));
  return results.every(({ ok }) => ok) ? 0 : 1;
}

function parse(argv: readonly string[]): FaultsOptions {
  const command = new Command("faults")
    .description("kills daemons and breaks links while a domain migrates, and checks what is left")
    .option("--fast", "every fault point once, and links cut for a second: for every commit")
    .option("--only <text>", "the cases whose names contain it, or one of several with commas between")
    .option("--list", "names the cases and runs none")
    .option("--jobs <n>", "cases at a time, each on hosts of its own", integer({ min: 1, max: 16 }), 2)
    .option("--seed <n>", "of the guests' choices", integer({ min: 1, max: 2 ** 31 }), 1)
    .option("--json", "one JSON object per case, then the summary")
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
  return command.parse([...argv], { from: "user" }).opts<FaultsOptions>();
}

async function runAll(
  cases: readonly FaultCase[],
  { json, seed, jobs }: FaultsOptions,
): Promise<CaseResult[]> {
  const queue = [...cases.entries()];
  const results: CaseResult[] = [];
  const startedAt = performance.now();
  const status = new StatusLine(process.stderr);
  let starting: Promise<unknown> = Promise.resolve();
  // One after the other: daemons that all start at once on a small machine keep each other from answering in time.
  const startStage = (): Promise<Stage> => {
    const turn = starting.then(() => Stage.start());
    starting = turn.catch(() => undefined);
    return turn;
  };
  const work = async (): Promise<void> => {
    let stage: Stage | undefined;
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const [index, faultCase] = next;
      stage ??= await startStage();
      const result = await runCase(stage, faultCase, { name: `d${index}`, seed: seed + index });
      results.push(result);
      if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
      else status.update(`${results.length}/${cases.length} ${result.name}: ${verdictOf(result)}`);
      if (result.ok) continue;
      // Whatever is wrong with these hosts, the next case has nothing to do with it.
      await stage.stop();
      stage = undefined;
    }
    await stage?.stop();
  };
  await Promise.all(Array.from({ length: Math.min(jobs, cases.length) }, work));
  status.end();
  const failed = results.filter(({ ok }) => !ok);
  if (json) {
    const durationMs = Math.round(performance.now() - startedAt);
    const summary = { cases: results.length, failed: failed.map(({ name }) => name), seed, durationMs };
    process.stdout.write(`${JSON.stringify({ summary })}\n`);
  }
  const order = new Map(cases.map(({ name }, index) => [name, index]));
  return results.sort((one, other) => order.get(one.name)! - order.get(other.name)!);
}

async function runCase(
  stage: Stage,
  faultCase: FaultCase,
  options: { name: string; seed: number },
): Promise<CaseResult> {
  const { name, side, fault, workload } = faultCase;
  const startedAt = performance.now();
  const about = () => ({ name, side, fault, durationMs: Math.round(performance.now() - startedAt) });
  try {
    const outcome = await within(name, faultCase.run(stage, { ...options, workload }), CASE_TIMEOUT_MS);
    return { ...about(), ok: true, verified: true, ...outcome };
  } catch (error) {
    const logs = stage.hosts.map((host) => [host.name, readFileSync(host.logPath, "utf8").slice(-LOG_CHARS)]);
    return { ...about(), ok: false, problem: describe(error), log: Object.fromEntries(logs) };
  }
}

function verdictOf(result: CaseResult): string {
  return result.ok ? "ok" : `FAILED: ${result.problem}`;
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message} (${describe(error.cause)})`;
}

function report(results: readonly CaseResult[]): string {
  const table = formatTable<CaseResult>(
    [
      { title: "CASE", cell: ({ name }) => name },
      { title: "SIDE", cell: ({ side }) => side },
      { title: "OUTCOME", cell: (result) => (result.ok ? result.outcome : "FAILED") },
      { title: "RUNS ON", cell: (result) => (result.ok ? result.host : "?") },
      { title: "GEN", cell: (result) => (result.ok ? String(result.generation) : "") },
      { title: "PAUSE", cell: (result) => (result.ok ? formatDuration(result.pauseMs) : "") },
      { title: "RUNG", cell: (result) => (result.ok ? (result.rung ?? "-") : "") },
      { title: "NEXT", cell: (result) => (result.ok ? result.nextRung : "") },
      { title: "VERIFIED", cell: ({ ok }) => (ok ? "yes" : "NO") },
      { title: "TOOK", cell: ({ durationMs }) => formatDuration(durationMs) },
    ],
    results,
  );
  const failures = results.flatMap((result) =>
    result.ok ? [] : [`\n${result.name}: ${result.problem}\n`, ...logsOf(result.log), replay(result.name)],
  );
  const failed = results.filter(({ ok }) => !ok).length;
  return `${table}\n${results.length} cases, ${failed} failed\n${failures.join("")}`;
}

function logsOf(log: Record<string, string>): string[] {
  return Object.entries(log).map(([host, text]) => `--- the log of ${host} ends in\n${text}\n`);
}

function replay(name: string): string {
  return `again: npm run faults -- --only ${name}\n`;
}

// By name: left alone, Node sometimes waits for ever at its end for a socket that was reset while it connected.
process.exit(await main(process.argv.slice(2)));
