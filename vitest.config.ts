import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Real processes, sockets and disks on two shared cores: a test ends on an event, this only bounds a hang.
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
