#!/usr/bin/env python3
"""A peer that works as the original ones do: docs/protocol.md, sections 6 and 7.

    pip install zeep
    python3 examples/peer.py -s localhost -p 5050

The peer asks the time at http://localhost:8000/?wsdl before each request, sends each field of
a request in a segment of its own, listens on localhost only, and keeps its two JSON files in
the working directory.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time

import zeep

REPLIES = {
    "REGISTER": ["REGISTER OK", "USERNAME IN USE", "REGISTER FAIL"],
    "UNREGISTER": ["UNREGISTER OK", "USER DOES NOT EXIST", "UNREGISTER FAIL"],
    "CONNECT": ["CONNECT OK", "CONNECT FAIL, USER DOES NOT EXIST",
                "CONNECT FAIL, USER ALREADY CONNECTED", "CONNECT FAIL"],
    "DISCONNECT": ["DISCONNECT OK", "DISCONNECT FAIL, USER DOES NOT EXIST",
                   "DISCONNECT FAIL, USER NOT CONNECTED", "DISCONNECT FAIL"],
    "PUBLISH": ["PUBLISH OK", "PUBLISH FAIL, USER DOES NOT EXIST",
                "PUBLISH FAIL, USER NOT CONNECTED",
                "PUBLISH FAIL, CONTENT ALREADY PUBLISHED", "PUBLISH FAIL"],
    "DELETE": ["DELETE OK", "DELETE FAIL, USER DOES NOT EXIST",
               "DELETE FAIL, USER NOT CONNECTED",
               "DELETE FAIL, CONTENT NOT PUBLISHED", "DELETE FAIL"],
    "LIST_USERS": ["LIST_USERS OK", "LIST_USERS FAIL, USER DOES NOT EXIST",
                   "LIST_USERS FAIL, USER NOT CONNECTED", "LIST_USERS FAIL"],
    "LIST_CONTENT": ["LIST_CONTENT OK", "LIST_CONTENT FAIL, USER DOES NOT EXIST",
                     "LIST_CONTENT FAIL, USER NOT CONNECTED",
                     "LIST_CONTENT FAIL, REMOTE USER DOES NOT EXIST", "LIST_CONTENT FAIL"],
    "GET_FILE": ["GET_FILE OK", "GET_FILE FAIL, FILE DOES NOT EXIST", "GET_FILE FAIL"],
}
ARGUMENTS = {"REGISTER": 1, "UNREGISTER": 1, "CONNECT": 1, "DISCONNECT": 1, "PUBLISH": 2,
             "DELETE": 1, "LIST_USERS": 0, "LIST_CONTENT": 1, "GET_FILE": 3}
PIECE = 8192


def receive(sock, length):
    """Reads exactly `length` bytes."""
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise ConnectionError("the reply is cut short")
        data += more
    return data


def text(field):
    return field.split(b"\0")[0].decode()


class Files:
    """What this peer serves to others while it is connected."""

    def __init__(self, username):
        self.username = username
        self.listener = socket.create_server(("localhost", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                caller, _ = self.listener.accept()
            except OSError:
                return
            with caller:
                try:
                    self.answer(caller)
                except OSError:
                    pass

    def answer(self, caller):
        if caller.recv(9) != b"GET_FILE\0":
            caller.sendall(b"2")
            return
        filename = text(caller.recv(256))
        try:
            with open(f"published-{self.username}.json", encoding="utf-8") as listed:
                published = {row["Filename"] for row in json.load(listed)}
            if filename not in published:
                raise FileNotFoundError
            with open(filename, "rb") as file:
                caller.sendall(b"0")
                while piece := file.read(PIECE):
                    caller.sendall(piece)
        except FileNotFoundError:
            caller.sendall(b"1")

    def close(self):
        self.listener.close()


class Peer:
    def __init__(self, options):
        self.index = (options.server, options.port)
        self.wsdl = options.datetime
        self.pause = options.pause
        self.soap = None
        self.user = ""
        self.files = None

    def now(self):
        self.soap = self.soap or zeep.Client(self.wsdl)
        return self.soap.service.datetime()

    def ask(self, command, *fields, reply=lambda sock: None):
        """Sends one request; gives the status and, if the status is 0, what `reply` reads."""
        now = self.now()
        print(now)
        with socket.create_connection(self.index) as sock:
            for field in (command, now, *fields):
                sock.sendall(field.encode() + b"\0")
                time.sleep(self.pause)
            status = int(receive(sock, 1))
            return status, reply(sock) if status == 0 else None

    def published(self):
        try:
            with open(f"published-{self.user}.json", encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return []

    def save(self, name, rows):
        with open(f"{name}-{self.user}.json", "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=4)

    def register(self, name):
        status, _ = self.ask("REGISTER", name)
        if status == 0:
            self.user = name
        return status

    def unregister(self, name):
        return self.ask("UNREGISTER", name)[0]

    def connect(self, name):
        files = Files(name)
        status, _ = self.ask("CONNECT", name, str(files.port))
        if status != 0:
            files.close()
            return status
        self.leave()
        self.user, self.files = name, files
        self.save("published", [])
        return status

    def disconnect(self, name):
        status, _ = self.ask("DISCONNECT", name)
        if status == 0:
            self.leave()
        return status

    def publish(self, filename, description):
        status, _ = self.ask("PUBLISH", self.user, filename, description)
        if status == 0:
            self.save("published", self.published() + [{"Filename": filename, "Description": description}])
        return status

    def delete(self, filename):
        status, _ = self.ask("DELETE", self.user, filename)
        if status == 0:
            self.save("published", [row for row in self.published() if row["Filename"] != filename])
        return status

    def list_users(self):
        def read(sock):
            count = int(receive(sock, 4))
            return [(text(receive(sock, 256)), text(receive(sock, 16)), text(receive(sock, 6)))
                    for _ in range(count)]
        status, users = self.ask("LIST_USERS", self.user, reply=read)
        if status == 0:
            rows = [{"Username": name, "IP address": address, "Port": port} for name, address, port in users]
            self.save("listusers", rows)
            return status, [" ".join(user) for user in users]
        return status

    def list_content(self, name):
        def read(sock):
            count = int(receive(sock, 4))
            return [(text(receive(sock, 256)), text(receive(sock, 256))) for _ in range(count)]
        status, files = self.ask("LIST_CONTENT", self.user, name, reply=read)
        return (status, [f'{name} "{about}"' for name, about in files]) if status == 0 else status

    def get_file(self, name, remote, local):
        try:
            with open(f"listusers-{self.user}.json", encoding="utf-8") as file:
                row = next(row for row in json.load(file) if row["Username"] == name)
            with socket.create_connection((row["IP address"], int(row["Port"]))) as sock:
                sock.sendall(b"GET_FILE\0")
                sock.sendall(remote.encode() + b"\0")
                status = int(receive(sock, 1))
                if status == 0:
                    with open(local, "wb") as file:
                        while piece := sock.recv(PIECE):
                            file.write(piece)
                return status
        except (OSError, StopIteration, ValueError):
            return 2

    def leave(self):
        if self.files:
            self.files.close()
            self.files = None

    def run(self, line):
        words = line.split(" ")
        command, arguments = words[0].upper(), words[1:]
        if command not in ARGUMENTS:
            print(f"Error: command {words[0]} not valid.")
            return
        if command == "PUBLISH" and len(arguments) > 2:
            arguments = [arguments[0], " ".join(arguments[1:])]
        if len(arguments) != ARGUMENTS[command]:
            print("Syntax error.")
            return
        replies = REPLIES[command]
        try:
            result = getattr(self, command.lower())(*arguments)
        except (OSError, ValueError):
            result = len(replies) - 1
        status, lines = result if isinstance(result, tuple) else (result, [])
        print(replies[min(status, len(replies) - 1)])
        for row in lines:
            print(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-s", dest="server", default="localhost")
    parser.add_argument("-p", dest="port", type=int, default=5050)
    parser.add_argument("--datetime", default=os.environ.get("DATETIME_WSDL", "http://localhost:8000/?wsdl"))
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two fields")
    peer = Peer(parser.parse_args())
    while True:
        print("c> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip().upper() == "QUIT":
            break
        if line.strip():
            peer.run(line.rstrip("\n"))
            sys.stdout.flush()
    peer.leave()
    print("+++ FINISHED +++")


if __name__ == "__main__":
    main()
