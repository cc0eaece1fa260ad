// The peer Socket.IO, on Node. `node socketio.mjs echo|fanout` serves until killed. Its event is "echo".
import { createServer } from "node:http";
import { Server } from "socket.io";

const role = process.argv[2];
const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  pingInterval: 2 ** 30, // Twelve days: no pings while anybody measures.
  serveClient: false,
});

io.on("connection", (socket) => {
  socket.on("echo", (data) => {
    if (role === "echo") socket.emit("echo", data);
    else io.emit("echo", data);
  });
});
http.listen({ port: 0, host: "127.0.0.1", backlog: 65535 }, () =>
  console.log(`listening on ws://127.0.0.1:${http.address().port}`),
);
