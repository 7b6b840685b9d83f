/**
 * What users install: each program of ours in one file, with what it needs of others and nothing that it does not
 * load. A thousand modules of which a third is used cost a daemon 25 MiB and half of its start.
 */

import { defineConfig } from "rolldown";

export default defineConfig({
  input: {
    // They lie beside one another, and find each other by these names.
    bin: "node/bin.ts",
    main: "node/data/main.ts",
    "guest-process": "node/hypervisor/wasm/guest-process.ts",
    "libxl-resume": "node/hypervisor/xen/libxl-resume.ts",
  },
  platform: "node",
  // Native code, which looks for its binaries beside itself.
  external: ["level", "koffi"],
  output: {
    dir: "dist",
    cleanDir: true,
    format: "esm",
    entryFileNames: "node/[name].js",
    chunkFileNames: "node/[name]-[hash].js",
    sourcemap: true,
    // Names stay: they are in stack traces, which operators send.
    minify: { compress: true, mangle: false, codegen: true },
  },
});
