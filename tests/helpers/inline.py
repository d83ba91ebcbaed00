"""An executor for tests: runs every call of train.py within this process."""

import train


class Inline:
    slots = 1

    def __init__(self):
        self.started = []

    def start(self, job, slot):
        self.started.append(job.name)
        return Ended(next((status for words in job.runs() if (status := train.main(words))), 0))


class Ended:
    def __init__(self, status):
        self.status = status

    def poll(self):
        return self.status

    def stop(self):
        pass
