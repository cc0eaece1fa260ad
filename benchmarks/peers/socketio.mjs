// The peer Socket.IO, on Node. `node socketio.mjs echo|fanout [REDIS_URL]` serves until killed. Its event is
// "echo". With a URL it is one of several, which reach each other's clients through its Redis adapter.
import { createServer } from "node:http";
import { Server } from "socket.io";

const [role, redis] = process.argv.slice(2);
const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  pingInterval: 2 ** 30, // Twelve days: no pings while anybody measures.
  serveClient: false,
});

if (redis) {
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const { Redis } = await import("ioredis");
  const publisher = new Redis(redis);
  const subscriber = publisher.duplicate();
  const adapter = createAdapter(publisher, subscriber);
  io.adapter(adapter);
  // It subscribes on its own; what is sent before that would not arrive.
  await publisher.ping();
  await subscriber.ping();
}

io.on("connection", (socket) => {
  socket.on("echo", (data) => {
    if (role === "echo") socket.emit("echo", data);
    else io.emit("echo", data);
  });
});
http.listen({ port: 0, host: "127.0.0.1", backlog: 65535 }, () =>
  console.log(`listening on ws://127.0.0.1:${http.address().port}`),
);
