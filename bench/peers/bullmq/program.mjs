// BullMQ as a peer of the benchmark. See ../README.md for the commands, which are the same for every peer.
//
// The settings are those of BullMQ's own guide to concurrency (https://docs.bullmq.io/guide/workers/concurrency):
// concurrency 50, two processes. Jobs are added with addBulk, and completed jobs are kept, which is the default.
import { randomInt } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const NAME = "bench";
const LOOPS = Number(process.env.BENCH_LOOPS ?? 0);

const now = () => (performance.timeOrigin + performance.now()) / 1000;
const say = (figures) => process.stdout.write(`${JSON.stringify(figures)}\n`);
const connect = () => new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });

async function enqueue(kind, jobs, slice) {
  const queue = new Queue(NAME, { connection: connect() });
  await queue.waitUntilReady();
  const began = performance.now();
  for (let left = Number(jobs); left > 0; left -= slice) {
    await queue.addBulk(Array.from({ length: Math.min(left, slice) }, () => ({ name: kind, data: {} })));
  }
  say({ jobs: Number(jobs), seconds: (performance.now() - began) / 1000 });
}

async function submit(probes) {
  const queue = new Queue(NAME, { connection: connect() });
  await queue.waitUntilReady();
  const at = [];
  for (let number = 0; number < probes; number++) {
    await pause(randomInt(30, 71));
    at.push(now());
    await queue.add("probe", { number });
  }
  say({ submitted: at });
}

async function work() {
  let begun = false;
  const run = async (job) => {
    if (job.name === "probe") return say({ probe: job.data.number, at: now() });
    if (!begun) {
      begun = true;
      say({ first: now() });
    }
    if (job.name === "one_ms") burn(LOOPS);
  };
  const worker = new Worker(NAME, run, { connection: connect(), concurrency: 50, autorun: false });
  worker.on("error", (error) => console.error(error));
  await worker.waitUntilReady();
  await waitForGo();
  await worker.run();
}

// Counts how many turns of the loop take 1 ms: the quickest of many tries, once the compiler has seen it.
function calibrate() {
  const turns = 500_000;
  let best = Infinity;
  for (let tries = 0; tries < 200; tries++) {
    const began = performance.now();
    burn(turns);
    best = Math.min(best, performance.now() - began);
  }
  say({ loops: Math.floor(turns / best) });
}

async function bare(milliseconds) {
  await waitForGo();
  const began = performance.now();
  let calls = 0;
  for (; performance.now() - began < milliseconds; calls++) burn(LOOPS);
  say({ calls, seconds: (performance.now() - began) / 1000 });
}

let sink = 0;

function burn(loops) {
  let total = 0; // stays small, or the engine would compute with other, slower numbers in a longer loop
  for (let n = 0; n < loops; n++) total = (total + n * 7) % 1_000_003;
  sink = total;
}

async function waitForGo() {
  say({ ready: true });
  for await (const _ of createInterface({ input: process.stdin })) return;
  process.exit(0);
}

const COMMANDS = { setup: () => say({ ready: true }), enqueue, submit, work, calibrate, bare };
const [command, ...rest] = process.argv.slice(2);
await COMMANDS[command](...rest);
if (command !== "work") process.exit(0);
