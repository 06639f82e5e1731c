"""What the shop sells. In a real one this would be a database."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.text import slugify

_LIST = """
Emma | Jane Austen | 1815
Mansfield Park | Jane Austen | 1814
Northanger Abbey | Jane Austen | 1817
Persuasion | Jane Austen | 1817
Pride and Prejudice | Jane Austen | 1813
Sense and Sensibility | Jane Austen | 1811
Eugénie Grandet | Honoré de Balzac | 1833
Père Goriot | Honoré de Balzac | 1835
Lady Audley's Secret | Mary Elizabeth Braddon | 1862
Jane Eyre | Charlotte Brontë | 1847
Villette | Charlotte Brontë | 1853
The Tenant of Wildfell Hall | Anne Brontë | 1848
Wuthering Heights | Emily Brontë | 1847
Alice's Adventures in Wonderland | Lewis Carroll | 1865
Through the Looking-Glass | Lewis Carroll | 1871
The Awakening | Kate Chopin | 1899
The Moonstone | Wilkie Collins | 1868
The Woman in White | Wilkie Collins | 1860
Heart of Darkness | Joseph Conrad | 1899
Lord Jim | Joseph Conrad | 1900
Nostromo | Joseph Conrad | 1904
The Last of the Mohicans | James Fenimore Cooper | 1826
Robinson Crusoe | Daniel Defoe | 1719
Moll Flanders | Daniel Defoe | 1722
A Tale of Two Cities | Charles Dickens | 1859
Bleak House | Charles Dickens | 1853
David Copperfield | Charles Dickens | 1850
Great Expectations | Charles Dickens | 1861
Hard Times | Charles Dickens | 1854
Little Dorrit | Charles Dickens | 1857
Crime and Punishment | Fyodor Dostoevsky | 1866
The Brothers Karamazov | Fyodor Dostoevsky | 1880
The Idiot | Fyodor Dostoevsky | 1869
The Hound of the Baskervilles | Arthur Conan Doyle | 1902
The Count of Monte Cristo | Alexandre Dumas | 1846
The Three Musketeers | Alexandre Dumas | 1844
Daniel Deronda | George Eliot | 1876
Middlemarch | George Eliot | 1872
Silas Marner | George Eliot | 1861
The Mill on the Floss | George Eliot | 1860
Tom Jones | Henry Fielding | 1749
Madame Bovary | Gustave Flaubert | 1857
Cranford | Elizabeth Gaskell | 1853
North and South | Elizabeth Gaskell | 1855
Dead Souls | Nikolai Gogol | 1842
The Mayor of Casterbridge | Thomas Hardy | 1886
Tess of the d'Urbervilles | Thomas Hardy | 1891
The Scarlet Letter | Nathaniel Hawthorne | 1850
Les Misérables | Victor Hugo | 1862
The Portrait of a Lady | Henry James | 1881
The Turn of the Screw | Henry James | 1898
Three Men in a Boat | Jerome K. Jerome | 1889
Kim | Rudyard Kipling | 1901
The Jungle Book | Rudyard Kipling | 1894
The Call of the Wild | Jack London | 1903
Moby-Dick | Herman Melville | 1851
Frankenstein | Mary Shelley | 1818
Treasure Island | Robert Louis Stevenson | 1883
Kidnapped | Robert Louis Stevenson | 1886
Dracula | Bram Stoker | 1897
Gulliver's Travels | Jonathan Swift | 1726
Vanity Fair | William Makepeace Thackeray | 1848
Anna Karenina | Leo Tolstoy | 1878
War and Peace | Leo Tolstoy | 1869
Barchester Towers | Anthony Trollope | 1857
Fathers and Sons | Ivan Turgenev | 1862
Adventures of Huckleberry Finn | Mark Twain | 1884
Around the World in Eighty Days | Jules Verne | 1873
The Time Machine | H. G. Wells | 1895
The War of the Worlds | H. G. Wells | 1898
The Picture of Dorian Gray | Oscar Wilde | 1890
Germinal | Émile Zola | 1885
"""


@dataclass(frozen=True)
class Book:
    """A title of the shop; `hue` is the colour of its cover, in degrees."""

    slug: str
    title: str
    author: str
    year: int
    hue: int


def _read_list() -> dict[str, Book]:
    books = {}
    for number, line in enumerate(_LIST.strip().splitlines()):
        title, author, year = line.split(" | ")
        slug = slugify(title)
        books[slug] = Book(slug, title, author, int(year), number * 47 % 360)
    return books


BOOKS = _read_list()
