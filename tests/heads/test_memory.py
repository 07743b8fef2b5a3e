import torch
import torch.nn.functional as F

from glocal.distributed import rank, world_size
from glocal.heads import IndexedQueue, SupportQueue
from processes import on_processes


def pushed(*sizes):
    """A queue of 7 after pushes of so many rows each, of which this process has its part, and its neighbours."""
    torch.manual_seed(0)
    queue = SupportQueue(7, 3).double()
    rows = torch.randn(sum(sizes), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for part in rows.split(sizes):
        queue.push(part.chunk(world_size())[rank()])
    return queue.embeddings, F.normalize(rows), queue.nearest_entry(2 * rows)


def test_the_oldest_leave_first_and_the_rest_is_random():
    queue, rows, _ = pushed(4)
    torch.testing.assert_close(queue[:4], rows)
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(7, dtype=torch.float64))
    queue, rows, _ = pushed(4, 6)  # rows 3 to 9 are the last seven; 4 to 6 filled the end, 7 to 9 the beginning
    torch.testing.assert_close(queue, torch.cat([rows[7:10], rows[3:7]]))


def test_a_batch_larger_than_the_queue_leaves_its_last():
    queue, rows, _ = pushed(10)
    assert {tuple(row) for row in queue.tolist()} == {tuple(row) for row in rows[3:].tolist()}


def test_each_embedding_is_its_own_nearest():
    _, rows, nearest = pushed(6)
    torch.testing.assert_close(nearest, rows)


def test_two_processes_hold_what_one_would():
    for queue, _, nearest in on_processes(2, pushed, 4, 6):
        torch.testing.assert_close(queue, pushed(4, 6)[0])
        torch.testing.assert_close(nearest, pushed(4, 6)[2])


def indexed():
    """A queue of 5 after the rows 0 to 5, by two pushes."""
    queue = IndexedQueue(5, 2)
    for part in torch.arange(6).split([4, 2]):
        mine = part.chunk(world_size())[rank()]
        queue.push(mine[:, None].repeat(1, 2).float(), mine)
    return queue.index, queue.embeddings


def test_a_queue_knows_of_which_sample_each_embedding_is():
    assert IndexedQueue(3, 2).index.tolist() == [-1, -1, -1]
    small = IndexedQueue(3, 1)
    small.push(torch.arange(5.0)[:, None], torch.arange(5))  # more than it holds
    assert sorted(small.index.tolist()) == [2, 3, 4]
    torch.testing.assert_close(small.embeddings[:, 0], small.index.float())
    for index, embeddings in (indexed(), *on_processes(2, indexed)):
        assert index.tolist() == [5, 1, 2, 3, 4]
        torch.testing.assert_close(embeddings[:, 0], index.float())
