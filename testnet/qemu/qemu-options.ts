/** The command line of `npm run qemu`. */

import { Command, Option } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { type Hop, hopsOf, route } from "../tour-options.ts";

export type QemuRunOptions = {
  route: readonly string[];
  memory: number;
  diskSize: number;
  secondSize: number;
  hotMemory: number;
  pagesPerSecond: number;
  blocksPerSecond: number;
  filesPerSecond: number;
  accel: "tcg" | "kvm";
  hops?: number;
  baseline?: boolean;
  keep?: boolean;
  json?: boolean;
};

export function parseQemuOptions(argv: readonly string[]): QemuRunOptions {
  const rate = integer({ min: 0, max: 1_000_000 });
  const command = new Command("qemu")
    .description("takes a running Linux with its memory and its disks through a cluster of daemons")
    .option("--route <hosts>", "where the domain goes, one name after the other", route, ["A", "B", "C", "A"])
    .option("--memory <size>", "of the guest", size, 192 << 20)
    .option("--disk-size <size>", "of the vbd with the file system", size, 256 << 20)
    .option("--second-size <size>", "of the vbd without one", size, 64 << 20)
    .option("--hot-memory <size>", "how much of its memory the guest rewrites", size, 24 << 20)
    .option("--pages-per-second <n>", "that it rewrites", rate, 2000)
    .option("--blocks-per-second <n>", "that it reads and writes", rate, 100)
    .option("--files-per-second <n>", "that it reads and writes", rate, 10)
    .addOption(
      new Option("--accel <how>", "how QEMU runs the guest's code").choices(["tcg", "kvm"]).default("tcg"),
    )
    .option(
      "--hops <n>",
      "around the route, which has to end where it begins, until it made so many hops",
      integer({ min: 1, max: 10_000 }),
    )
    .option(
      "--baseline",
      "after every hop another such guest's memory migrates between two QEMUs without us, on storage that both have",
    )
    .option("--keep", "leave the cluster running at the end")
    .option("--json", "one JSON object per hop, then the summary")
    .parse(argv, { from: "user" });
  const options = command.opts<QemuRunOptions>();
  const isRing = options.route.at(0) === options.route.at(-1);
  if (options.hops !== undefined && !isRing)
    command.error("error: --hops needs a --route that ends where it begins");
  return options;
}

/** The route's hops, or as many around it as were asked for. */
export function qemuHopsOf(options: Pick<QemuRunOptions, "route" | "hops">): Hop[] {
  const once = hopsOf(options);
  return Array.from({ length: options.hops ?? once.length }, (_, index) => once[index % once.length]!);
}
