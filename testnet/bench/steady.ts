/**
 * `npm run bench -- steady`: fio in a Linux, on QEMU alone and under our daemons: with QEMU's dirty bitmaps, without
 * them, and in a migration's window. The ways take turns in every round, forth and back, so a machine that gets slower
 * does so for all of them. A ratio is that of two ways in one round, medians count, and a measurement beside which
 * something else worked is not used where there are others.
 */

import { Command } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { type Column, formatTable } from "../../node/cli/output.ts";
import { withFio } from "../qemu/guest-fio.ts";
import { guestParts, startQemuCluster } from "../qemu/qemu-cluster.ts";
import { median } from "../statistics.ts";
import { StatusLine } from "../status-line.ts";
import { type Figures, SteadyGuests, type Way } from "./steady-guests.ts";

type Options = { rounds: number; seconds: number; size: number; depth: number; json?: boolean };

type Sample = Figures & { way: Way; round: number };

/** Of one way in one round beside another in the same round; `rounds`: how many counted. */
type Ratio = { median: number; min: number; max: number; rounds: number };

type Row = Figures & { way: Way; iopsMin: number; iopsMax: number; ofPlain: Ratio };

const WAYS: Record<Way, string> = {
  plain: "QEMU alone",
  on: "sojourn, tracking on",
  off: "sojourn, tracking off",
  window: "sojourn, in a window",
};
const ORDER = Object.keys(WAYS) as Way[];
/** Of a processor: what others may have of the machine, the kernel's own threads among them. */
const OTHERS_CORES_MAX = 0.15;

export async function runSteady(argv: readonly string[]): Promise<boolean> {
  const options = parse(argv);
  const status = new StatusLine(process.stderr);
  const say = (what: string): void => status.update(what);
  const { packages, image } = await guestParts(say);
  say("adding fio to the guest's initramfs");
  const parts = { packages, image: await withFio(image) };
  const cluster = await startQemuCluster(["A", "B"], parts, { acceleration: "tcg", extraArguments: true });
  const guests = new SteadyGuests({ cluster, executable: packages.executable, options });
  try {
    await guests.boot(say);
    const samples = await measure(guests, { rounds: options.rounds, say });
    status.end();
    const rows = ORDER.map((way) => rowOf(way, samples));
    const trackingOnOverOff = ratioOf("on", "off", samples);
    const result = { options, qemuVersion: packages.version, rows, trackingOnOverOff, samples };
    process.stdout.write(
      options.json ? `${JSON.stringify(result)}\n` : report(rows, { trackingOnOverOff, options }),
    );
    return true;
  } finally {
    status.end();
    await guests.end();
    await cluster.stop();
  }
}

async function measure(
  guests: SteadyGuests,
  { rounds, say }: { rounds: number; say: (what: string) => void },
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const way of round % 2 === 1 ? ORDER : ORDER.toReversed()) {
      say(`round ${round} of ${rounds}: ${WAYS[way]}`);
      samples.push({ way, round, ...(await guests.measure(way)) });
    }
  }
  return samples;
}

function rowOf(way: Way, samples: readonly Sample[]): Row {
  const own = quietOf(samples.filter((sample) => sample.way === way));
  const medianOf = (figure: keyof Figures): number => median(own.map((sample) => sample[figure]));
  const iops = own.map((sample) => sample.iops);
  return {
    way,
    iops: median(iops),
    iopsMin: Math.min(...iops),
    iopsMax: Math.max(...iops),
    bytesPerSecond: medianOf("bytesPerSecond"),
    p50Us: medianOf("p50Us"),
    p99Us: medianOf("p99Us"),
    cpuSeconds: medianOf("cpuSeconds"),
    othersCores: medianOf("othersCores"),
    ofPlain: ratioOf(way, "plain", samples),
  };
}

function ratioOf(way: Way, beside: Way, samples: readonly Sample[]): Ratio {
  const pairs = samples
    .filter((sample) => sample.way === way)
    .map((one) => {
      const other = samples.find((sample) => sample.way === beside && sample.round === one.round)!;
      return { ratio: one.iops / other.iops, othersCores: Math.max(one.othersCores, other.othersCores) };
    });
  const ratios = quietOf(pairs).map(({ ratio }) => ratio);
  return {
    median: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    rounds: ratios.length,
  };
}

/** Without those beside which something else worked; all where none is left. */
function quietOf<T extends { othersCores: number }>(all: readonly T[]): readonly T[] {
  const quiet = all.filter(({ othersCores }) => othersCores <= OTHERS_CORES_MAX);
  return quiet.length > 0 ? quiet : all;
}

const COLUMNS: readonly Column<Row>[] = [
  { title: "WAY", cell: ({ way }) => WAYS[way] },
  { title: "IOPS", align: "right", cell: ({ iops }) => iops.toFixed(0) },
  {
    title: "MIN-MAX",
    align: "right",
    cell: ({ iopsMin, iopsMax }) => `${iopsMin.toFixed(0)}-${iopsMax.toFixed(0)}`,
  },
  { title: "MB/S", align: "right", cell: ({ bytesPerSecond }) => (bytesPerSecond / 1e6).toFixed(1) },
  { title: "P50 US", align: "right", cell: ({ p50Us }) => p50Us.toFixed(0) },
  { title: "P99 US", align: "right", cell: ({ p99Us }) => p99Us.toFixed(0) },
  { title: "CPU S", align: "right", cell: ({ cpuSeconds }) => cpuSeconds.toFixed(1) },
  { title: "OTHERS' CPUS", align: "right", cell: ({ othersCores }) => othersCores.toFixed(2) },
  { title: "OF QEMU ALONE", align: "right", cell: ({ ofPlain }) => ofPlain.median.toFixed(3) },
  { title: "MIN-MAX", align: "right", cell: ({ ofPlain }) => spread(ofPlain) },
  { title: "ROUNDS", align: "right", cell: ({ ofPlain }) => String(ofPlain.rounds) },
];

function report(
  rows: readonly Row[],
  { trackingOnOverOff, options }: { trackingOnOverOff: Ratio; options: Options },
): string {
  return [
    formatTable(COLUMNS, rows),
    `tracking on / off: ${trackingOnOverOff.median.toFixed(3)} (${spread(trackingOnOverOff)}, ${trackingOnOverOff.rounds} rounds)\n`,
    `4 KiB at random, reads and writes, ${options.depth} at once, past the guest's page cache; `,
    `${options.rounds} rounds of ${options.seconds} s; ratios are of single rounds, `,
    `of those beside which others had no more than ${OTHERS_CORES_MAX} of a processor where there are any\n`,
  ].join("");
}

function spread({ min, max }: Ratio): string {
  return `${min.toFixed(3)}-${max.toFixed(3)}`;
}

function parse(argv: readonly string[]): Options {
  return new Command("steady")
    .description("fio in a guest: QEMU alone, managed with and without tracking, in a migration's window")
    .option("--rounds <n>", "of every way; medians count", integer({ min: 1, max: 100 }), 5)
    .option("--seconds <n>", "of each measurement", integer({ min: 1, max: 120 }), 10)
    .option("--size <size>", "of the vbd that fio works on", size, 256 << 20)
    .option("--depth <n>", "requests at once", integer({ min: 1, max: 256 }), 8)
    .option("--json", "one JSON object")
    .parse(argv, { from: "user" })
    .opts<Options>();
}
