/** The command line of `npm run xen`. */

import { Command, InvalidArgumentError } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { hopsOf, route } from "../tour-options.ts";
import { BREAKS } from "./breaks.ts";

export type XenRunOptions = {
  route: readonly string[];
  memory: number;
  diskSize: number;
  secondSize: number;
  pagesPerSecond: number;
  blocksPerSecond: number;
  filesPerSecond: number;
  fast?: boolean;
  /** Names of `BREAKS`; empty: an ordinary journey. */
  break: readonly string[];
  keep?: boolean;
  json?: boolean;
};

const ROUTE = ["A", "B", "C", "A"];
const FAST_ROUTE = ["A", "B", "A"];

export function parseXenOptions(argv: readonly string[]): XenRunOptions {
  const rate = integer({ min: 0, max: 1_000_000 });
  const command = new Command("xen")
    .description("takes a running PVH domain with its memory and its disks through nested Xen hosts")
    .option("--route <hosts>", "where the domain goes, one name after the other", route, ROUTE)
    .option("--fast", `two hosts: ${FAST_ROUTE.join(",")}`)
    .option(
      "--break <steps>",
      `breaks a migration each: ${Object.keys(BREAKS).join(", ")}; several with commas between, or all; with --fast after the journey`,
      breaks,
      [],
    )
    .option("--memory <size>", "of the guest", size, 144 << 20)
    .option("--disk-size <size>", "of the vbd with the file system", size, 64 << 20)
    .option("--second-size <size>", "of the vbd without one", size, 16 << 20)
    .option("--pages-per-second <n>", "that the guest rewrites", rate, 200)
    .option("--blocks-per-second <n>", "that it reads and writes", rate, 10)
    .option("--files-per-second <n>", "that it reads and writes", rate, 2)
    .option("--keep", "leave the hosts running at the end, until Ctrl-C")
    .option("--json", "one JSON object per hop, then the summary")
    .parse(argv, { from: "user" });
  const options = command.opts<XenRunOptions>();
  const isShort = options.fast || options.break.length > 0;
  const chosen = isShort ? { ...options, route: FAST_ROUTE } : options;
  hopsOf(chosen);
  return chosen;
}

function breaks(text: string): readonly string[] {
  const names = text === "all" ? Object.keys(BREAKS) : text.split(",");
  const unknown = names.find((name) => !Object.hasOwn(BREAKS, name));
  if (unknown === undefined) return names;
  throw new InvalidArgumentError(`There is no ${unknown}.`);
}
