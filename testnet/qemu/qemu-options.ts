/** The command line of `npm run qemu`. */

import { Command, Option } from "commander";
import { integer, size } from "../../node/cli/arguments.ts";
import { hopsOf, route } from "../tour-options.ts";

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
  diskless?: boolean;
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
    .option("--diskless", "the same guest without vbds: what the memory alone costs")
    .option("--baseline", "first the route without vbds, then with them: what the disks add to the pause")
    .option("--keep", "leave the cluster running at the end")
    .option("--json", "one JSON object per hop, then the summary")
    .parse(argv, { from: "user" });
  const options = command.opts<QemuRunOptions>();
  hopsOf(options);
  return options;
}
