"""The table of activities, and the scene that each of them is played in."""

import dataclasses
import time
import typing

from . import services


@dataclasses.dataclass(frozen=True)
class Activity:
    """A row of the table; `play(scene)` makes the traffic."""

    name: str
    label: str
    category: str
    description: str
    play: typing.Callable
    versions: tuple
    expression: str  # the capture's filter, with {client} and {server} for addresses
    at_client: bool  # where it is recorded: else at the server


TABLE = {}


def activity(
    label,
    category,
    description,
    versions=(4, 6),
    expression="host {client} and host {server}",
    at_client=False,
):
    """Puts a function into the table, under its own name."""

    def enter(function):
        name = function.__name__.replace("_", "-")
        TABLE[name] = Activity(name, label, category, description, function, versions, expression, at_client)
        return function

    return enter


class Scene:
    """Who talks to whom, by which IP version, for how long, and the dice."""

    def __init__(self, lab, rng, version, seconds):
        self.lab, self.rng, self.version, self.seconds = lab, rng, version, seconds
        self.client, self.server = rng.sample(lab.hosts, 2)
        self.others = [h for h in lab.hosts if h not in (self.client, self.server)]
        self.deadline = None

    def start(self):
        """From here on the scene's time runs."""
        self.deadline = time.monotonic() + self.seconds

    @property
    def left(self):
        """Seconds until the scene should end."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def over(self):
        return self.left == 0.0

    def need(self, name):
        """A service of the server."""
        return services.need(self.server, name)

    def address(self):
        """The server's address, as text."""
        return self.server.address(self.version)

    def url(self, path, scheme="http", port=None):
        port = f":{port}" if port else ""
        return f"{scheme}://{self.server.literal(self.version)}{port}/{path}"

    def run(self, *words, seconds=None, **options):
        """Runs a program on the client; it is cut off a little after the scene's end."""
        return self.client.run(words, seconds=self.left + 1.0 if seconds is None else seconds, **options)

    def pause(self, middle, spread=0.6):
        """Waits about `middle` seconds, as people do: mostly less, sometimes much more. False once it is over."""
        time.sleep(min(self.left, middle * self.rng.lognormvariate(0.0, spread)))
        return not self.over

    def wait(self, seconds):
        """Waits that long, or until the scene's end. False once it is over."""
        time.sleep(min(self.left, max(0.0, seconds)))
        return not self.over

    def on_client(self, function):
        """Calls a function with sockets of the client's namespace and waits for it."""
        thread = self.client.inside(function)
        thread.join(self.left + 5.0)

    def pick(self, low, high):
        """A whole number, small ones more often: sizes and counts are like that."""
        return int(low * (high / low) ** self.rng.random())
