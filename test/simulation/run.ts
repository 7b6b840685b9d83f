/**
 * `npm run sim -- --seeds N [--from S] [--json]`: N fresh worlds on two processes.
 * `npm run sim -- --seed N [--guest]`: one world with its transcript; with `--guest` the guest's requests, too.
 * `npm run sim -- membership [--hosts N]`: the membership machine at scale (`membership/run.ts`).
 * `npm run sim -- churn [--days N]`: what a cluster still keeps after a week of churn (`churn/run.ts`).
 *
 * Exit codes: 0, or that of the first failure's verdict (`verdict.ts`); 2 for options that make no sense.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { VERDICT_EXIT_CODES, type Verdict, type VerdictKind } from "./verdict.ts";
import { type Outcome, World } from "./world.ts";

const WORKERS = 2;

type Failure = { seed: number; kind: VerdictKind; summary: string };
type Report = { seeds: number; failures: Failure[]; outcome: Outcome };

/** After how many seeds a worker says how far it is. */
const SEEDS_PER_REPORT = 100;

if (process.argv[2] === "membership") {
  const { runMembershipSimulation } = await import("./membership/run.ts");
  process.exit(runMembershipSimulation(process.argv.slice(3)));
}

if (process.argv[2] === "churn") {
  const { runChurnSimulation } = await import("./churn/run.ts");
  process.exit(runChurnSimulation(process.argv.slice(3)));
}

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string", default: "2000" },
    from: { type: "string" },
    json: { type: "boolean", default: false },
    guest: { type: "boolean", default: false },
    worker: { type: "boolean", default: false },
    "until-failure": { type: "boolean", default: false },
  },
});

if (values.seed !== undefined) {
  process.exitCode = await replay(wholeNumber("--seed", values.seed), { withGuest: values.guest });
} else {
  const drawn = String(Number(process.hrtime.bigint() % 1_000_000n) * 1000);
  const from = wholeNumber("--from", values.from ?? drawn);
  const count = wholeNumber("--seeds", values.seeds);
  if (values.worker) console.log(JSON.stringify(await runSeeds(from, count)));
  else process.exitCode = await runAll(from, count);
}

function wholeNumber(option: string, text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  console.error(`${option} takes a whole number, not ${JSON.stringify(text)}`);
  process.exit(2);
}

async function replay(seed: number, { withGuest }: { withGuest: boolean }): Promise<number> {
  const world = new World(seed, { verbose: true });
  try {
    const outcome = await world.run();
    console.log([...lines(world, withGuest), JSON.stringify(outcome)].join("\n"));
    return 0;
  } catch (error) {
    const verdict = error as Verdict;
    console.error(
      [...lines(world, withGuest), JSON.stringify(world.options), verdict.kind, verdict.message].join("\n"),
    );
    console.error(`SEED=${seed}\nreplay: npm run sim -- --seed ${seed}`);
    return VERDICT_EXIT_CODES[verdict.kind];
  }
}

function lines(world: World, withGuest: boolean): string[] {
  return world.transcript.filter((line) => withGuest || !line.includes(" ms  guest: "));
}

async function runSeeds(from: number, count: number): Promise<Report> {
  const report: Report = { seeds: count, failures: [], outcome: emptyOutcome() };
  for (let seed = from; seed < from + count; seed++) {
    try {
      add(report.outcome, await new World(seed).run());
    } catch (error) {
      const { kind, summary } = error as Verdict;
      report.failures.push({ seed, kind, summary });
      if (values["until-failure"]) break;
    }
    if ((seed - from + 1) % SEEDS_PER_REPORT === 0) console.log(`done ${SEEDS_PER_REPORT}`);
  }
  return report;
}

async function runAll(from: number, count: number): Promise<number> {
  const startedAt = process.hrtime.bigint();
  const share = Math.ceil(count / WORKERS);
  let done = 0;
  const onDone = (seeds: number): void => {
    done += seeds;
    const seconds = Number(process.hrtime.bigint() - startedAt) / 1e9;
    const left = Math.round((seconds / done) * (count - done));
    if (process.stderr.isTTY || done % 2000 === 0)
      process.stderr.write(
        `${done} of ${count} seeds, ${Math.round((done * 60) / seconds)} a minute, ETA ${left} s\n`,
      );
  };
  const reports = await Promise.all(
    Array.from({ length: WORKERS }, (_, worker) => {
      const first = worker * share;
      return runInProcess(from + first, Math.max(0, Math.min(share, count - first)), onDone);
    }),
  );
  const seconds = Number(process.hrtime.bigint() - startedAt) / 1e9;
  const failures = reports.flatMap((report) => report.failures);
  const outcome = emptyOutcome();
  for (const report of reports) add(outcome, report.outcome);
  const seedsPerMinute = Math.round((count * 60) / seconds);
  if (values.json) {
    console.log(JSON.stringify({ from, seeds: count, seconds, seedsPerMinute, outcome, failures }));
  } else {
    for (const { seed, kind, summary } of failures.slice(0, 20))
      console.log(`seed ${seed}: ${kind}: ${summary}`);
    console.log(
      `${count} seeds from ${from}, ${failures.length} failed, ${seedsPerMinute} seeds a minute`,
      outcome,
    );
  }
  const [first] = failures;
  if (first === undefined) return 0;
  if (!values.json) await replay(first.seed, { withGuest: false });
  return VERDICT_EXIT_CODES[first.kind];
}

async function runInProcess(from: number, count: number, onDone: (seeds: number) => void): Promise<Report> {
  const child = spawn(
    process.execPath,
    [fileURLToPath(import.meta.url), "--worker", "--from", String(from), "--seeds", String(count)],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith("done ")) onDone(Number(line.slice(5)));
    if (line.startsWith("{")) return JSON.parse(line) as Report;
  }
  throw new Error(`a worker of the simulation ended with ${await ended}`);
}

function emptyOutcome(): Outcome {
  return { completed: 0, aborted: 0, crashes: 0, virtualMs: 0, events: 0 };
}

function add(sum: Outcome, outcome: Outcome): void {
  for (const name of Object.keys(sum) as (keyof Outcome)[]) sum[name] += outcome[name];
}
