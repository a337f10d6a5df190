// Load on ferry's HTTP API, with thresholds: k6 ends with 99 when one is missed.
//
//   scripts/tools k6
//   bin/k6 run -e BASE=http://localhost:8080 -e VUS=50 -e DURATION=1m loadtest/k6.js
//
// FERRY_API_KEY is sent when it is set. The pipelines are those of loadtest/ferry.yaml.
import http from 'k6/http';
import { check, sleep } from 'k6';
import exec from 'k6/execution';

const base = __ENV.BASE || 'http://localhost:8080';
const think = Number(__ENV.THINK || 0);
const headers = { 'Content-Type': 'application/json' };
if (__ENV.FERRY_API_KEY) headers['X-API-Key'] = __ENV.FERRY_API_KEY;

export const options = {
  vus: Number(__ENV.VUS || 20),
  duration: __ENV.DURATION || '30s',
  thresholds: {
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
    'http_req_duration{name:process}': [`p(95)<${__ENV.P95 || 1000}`],
  },
};

export default function () {
  const processed = http.get(`${base}/process`, { headers, tags: { name: 'process' } });
  check(processed, { 'processed and durable': (r) => r.status === 200 && r.json('message') === 'Data processed' });

  const id = `k6-${exec.vu.idInTest}-${exec.vu.iterationInInstance}`;
  const pushed = http.post(`${base}/v1/pipelines/events/records`, JSON.stringify({ id }), { headers, tags: { name: 'push' } });
  check(pushed, { 'pushed and durable': (r) => r.status === 200 && r.json('published') === 1 });

  if (exec.vu.iterationInInstance % 20 === 0) {
    const run = http.post(`${base}/v1/pipelines/orders/runs`, null, { headers, tags: { name: 'run' } });
    check(run, { 'a run is under way': (r) => r.status === 202 });
    check(http.get(`${base}/`, { tags: { name: 'console' } }), { 'the console answers': (r) => r.status === 200 });
  }
  if (think > 0) sleep(think);
}
