/** The tour's command line, and the hops that it asks for. */

import { existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { integer, size } from "../node/cli/arguments.ts";

export const WORKLOADS = ["idle", "web", "video", "diabolical"] as const;

export type TourOptions = {
  route: readonly string[];
  workload: (typeof WORKLOADS)[number];
  diskSize: number;
  fill: number;
  memory: number;
  seed: number;
  image?: string;
  extraMoves?: number;
  restartDaemons?: boolean;
  links?: boolean;
  keep?: boolean;
  end?: string;
  json?: boolean;
  folder?: string;
};

export type Hop = { from: string; to: string };

const HOSTS_MAX = 16;
const EXTRA_MOVES = 5;

export function tourCommand(): Command {
  return new Command("tour")
    .description("takes a running domain with its memory and its disk through a cluster of daemons")
    .option("--route <hosts>", "where the domain goes, one name after the other", route, [
      ...["A", "B", "C", "A", "B"],
    ])
    .addOption(new Option("--workload <name>", "what the guest does").choices(WORKLOADS).default("web"))
    .option("--disk-size <size>", "of the sparse vbd", size, 4 * 2 ** 30)
    .option("--fill <size>", "how much of it the guest writes first", size, 512 * 2 ** 20)
    .option("--memory <size>", "of the guest", size, 64 * 2 ** 20)
    .option("--seed <n>", "of the guest's choices", integer({ min: 1, max: 2 ** 31 }), 1)
    .option("--image <file>", "a raw disk image: a second vbd, which must arrive as it left", imageFile)
    .option(
      "--extra-moves [n]",
      `afterwards so many moves between the last two hosts, then one to the host left longest ago (${EXTRA_MOVES})`,
      integer({ min: 1, max: 1000 }),
    )
    .option("--restart-daemons", "restart every daemon between two hops; the guest runs on")
    .option("--links", "through relays that count every byte, as a check of the daemons' own count")
    .option(
      "--folder <folder>",
      "where the cluster's folder is made (default: the system's, for temporary files)",
    )
    .option("--keep", "leave the cluster running at the end, and say how to talk to it")
    .option("--end <folder>", "end a cluster that was kept, and do nothing else")
    .option("--json", "one JSON object per hop, then the summary")
    .addHelpText(
      "after",
      `
Exit codes:
  0  every check of every hop passed
  1  a check failed, or the tour could not go on
  2  usage`,
    );
}

/** Exits with 2 where the options do not go together. */
export function parseTourOptions(argv: readonly string[]): TourOptions {
  const command = tourCommand().exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
  const parsed = command.parse([...argv], { from: "user" }).opts();
  // An option whose value is optional is true without it.
  const extraMoves = parsed.extraMoves === true ? EXTRA_MOVES : parsed.extraMoves;
  const options = { ...parsed, ...(extraMoves === undefined ? {} : { extraMoves }) } as TourOptions;
  if (options.fill > options.diskSize) command.error("error: --fill is more than --disk-size");
  if (options.keep && options.links) command.error("error: --links end with the tour, so --keep cannot");
  return options;
}

export function hostsOf(options: Pick<TourOptions, "route">): string[] {
  return [...new Set(options.route)];
}

/** The route's hops; then, when asked for, back and forth at its end, and a return to the host left longest ago. */
export function hopsOf({ route, extraMoves = 0 }: Pick<TourOptions, "route" | "extraMoves">): Hop[] {
  const places = [...route];
  const [here, there] = [route.at(-1)!, route.at(-2)!];
  for (let move = 1; move <= extraMoves; move++) places.push(move % 2 === 1 ? there : here);
  if (extraMoves > 0) {
    const oldest = hostsOf({ route }).toSorted((a, b) => places.lastIndexOf(a) - places.lastIndexOf(b))[0]!;
    if (oldest !== places.at(-1)) places.push(oldest);
  }
  return places.slice(1).map((to, index) => ({ from: places[index]!, to }));
}

export function route(text: string): string[] {
  const names = text.split(",").map((name) => name.trim());
  if (names.some((name) => !/^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/.test(name))) {
    throw new InvalidArgumentError("It must be names of hosts with commas between them, such as A,B,C,A,B.");
  }
  if (names.length < 2 || names.some((name, index) => name === names[index - 1])) {
    throw new InvalidArgumentError(
      "It must have two hosts or more, and every hop must lead to another host.",
    );
  }
  if (new Set(names).size > HOSTS_MAX) throw new InvalidArgumentError(`${HOSTS_MAX} hosts are the most.`);
  return names;
}

function imageFile(text: string): string {
  const path = resolve(text);
  if (!existsSync(path) || !statSync(path).isFile()) throw new InvalidArgumentError("There is no such file.");
  return path;
}
