import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Most of the time goes by in waiting for daemons: on two cores the default of one worker leaves one of them idle.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // Real processes, sockets and disks on two shared cores: a test ends on an event, this only bounds a hang.
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
